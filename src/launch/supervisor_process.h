// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "base/file_descriptor.h"
#include "launch/plan.h"
#include "launch/status_message.h"

namespace syncbn::launch {

/// The supervisor of a job as a child process. This process forwards SIGINT, SIGTERM and SIGHUP to it, except
/// for those that the caller has ignored (nohup).
class SupervisorProcess {
 public:
  enum class Mode {
    foreground,  ///< The supervisor ends when this process ends.
    background   ///< It keeps running after its Detached message and reports to plan.job_log from then on.
  };
  /// @throws std::system_error
  SupervisorProcess(const JobPlan& plan, Mode mode);
  /// Ends the job, unless wait() or detach() was called.
  ~SupervisorProcess();
  SupervisorProcess(const SupervisorProcess&) = delete;
  SupervisorProcess& operator=(const SupervisorProcess&) = delete;

  int fd() const { return socket_.get(); }  ///< For poll(): readable when receive() returns at once.
  /// Waits for a message. None if the supervisor has ended or has detached.
  std::optional<StatusMessage> receive() { return receive_status(socket_.get()); }

  struct Exit {
    int code;
    std::string report;  ///< For people, if the supervisor could not report its end.
  };
  /// Waits for the end of the supervisor. If the supervisor was killed, its workers are killed too.
  Exit wait();
  /// Lets the supervisor run on its own. Returns its process id.
  pid_t detach();

 private:
  base::Fd socket_;
  pid_t pid_ = 0;
};

}  // namespace syncbn::launch
