#pragma once

#include <signal.h>
#include <sys/types.h>

#include <optional>
#include <string>

#include "launch/plan.h"
#include "launch/status_message.h"
#include "base/file_descriptor.h"

namespace syncbn::launch {

/// The supervisor of a job as its parent has it: a process of its own, and what it says. This process hands
/// on SIGINT, SIGTERM and SIGHUP to it, unless its caller had them ignored (nohup).
class SupervisorProcess {
 public:
  enum class Place {
    front,      ///< It ends with this process.
    background  ///< It lives on, from LetGo on: its words then go to plan.job_log.
  };
  /// @throws std::system_error
  SupervisorProcess(const JobPlan& plan, Place place);
  /// Where it was neither waited for nor left alone, the job is ended.
  ~SupervisorProcess();
  SupervisorProcess(const SupervisorProcess&) = delete;
  SupervisorProcess& operator=(const SupervisorProcess&) = delete;

  int ear_fd() const { return ear_.get(); }  ///< For poll().
  /// Waits for something to be said. False: it has ended, or has let go.
  bool listen();
  std::optional<Word> next_word() { return words_.next(); }

  struct End {
    int code;
    std::string text;  ///< What it could not say itself.
  };
  /// Waits for its end. Where it was killed, its workers are killed too.
  End wait();
  /// Leaves it alone; its process id.
  pid_t leave();

 private:
  base::Fd ear_;
  pid_t pid_ = 0;
  WordReader words_;
};

}  // namespace syncbn::launch
