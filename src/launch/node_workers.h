// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "launch/plan.h"

namespace syncbn::launch {

/// A worker, or the scheduler, whose process ended with a status other than 0.
struct Failure {
  int rank;
  int status;  ///< From waitpid().
};

/// The processes of one node: its workers, and MindSpore's scheduler if this node runs it. Starts, watches,
/// reaps and signals them. The calling process must be a subreaper, so that orphans of the workers become its
/// children.
class NodeWorkers {
 public:
  NodeWorkers();  ///< @throws std::system_error

  /// Starts one process for each of `plans`, with `signal_mask`. May be called once.
  /// @throws std::system_error a process can't be started; those before it keep running
  void start(const Command& command, std::vector<WorkerPlan> plans, const sigset_t& signal_mask);

  int wake_fd() const { return epoll_.get(); }  ///< For poll(): readable when a process of start() has ended.
  /// Reaps all children that have ended, adopted ones too, so that no zombie remains. The results of the
  /// other functions change only here.
  void reap();

  const std::vector<WorkerPlan>& plans() const { return plans_; }
  int started() const { return started_; }  ///< Number of workers that were started.
  int running() const { return running_; }  ///< Number of workers that have not ended.
  std::vector<int> running_ranks() const;
  const std::vector<Failure>& failures() const { return failures_; }  ///< In the order in which they ended.
  /// True if the calling process had children at the last reap().
  bool has_children() const { return has_children_; }
  /// Processes that workers have left behind as children of the calling process.
  std::vector<pid_t> orphans() const;

  /// Sends SIGTERM to the process groups of the running workers and to the orphans.
  void terminate();

 private:
  struct Process {
    pid_t pid;
    base::Fd pidfd;  ///< Closed when the process has ended.
    int status;
  };
  void record_end(std::size_t index);

  base::Fd epoll_;  // of the pidfds
  std::vector<WorkerPlan> plans_;
  std::vector<Process> processes_;         // in the order of plans_
  std::map<pid_t, std::size_t> index_of_;  // processes that were not reaped
  std::vector<Failure> failures_;
  int started_ = 0;
  int running_ = 0;
  bool has_children_ = false;
};

}  // namespace syncbn::launch
