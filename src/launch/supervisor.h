#pragma once

#include <signal.h>

#include <functional>
#include <string>
#include <vector>

#include "launch/plan.h"

namespace syncbn::launch {

/// How far a job has come, counted on this node.
struct Progress {
  int here = 0;    ///< Workers of the whole job whose launchers have come; then worker_num.
  int up = 0;      ///< Started.
  int joined = 0;  ///< Have called init() of syncbn.
  int ended = 0;
  bool operator==(const Progress&) const = default;
};

/// Where a supervisor's words go.
struct Audience {
  /// At every change. First where this node's own part stands: the store is served, if here is its place.
  std::function<void(const Progress&)> progress;
  std::function<void(const std::vector<int>& ranks)> started;  ///< All workers of this node run.
  /// The job is started again, for the k-th time; lines for people tell why.
  std::function<void(int k, const std::string&)> restarting;
  std::function<void(const std::string&)>
      tell;  ///< Lines for people, at the end or where the job can't start.
};

/// Runs a whole job in the calling process, which must have one thread and no children: serves the store,
/// starts the workers with `worker_mask` as their signal mask, sleeps until the job is over, and ends it, so
/// that no descendant of this process is left; again, where its workers failed and --max_restarts allows it.
/// SIGINT, SIGTERM and SIGHUP to this process end the job. Returns the launcher's exit code.
int supervise(const JobPlan& plan, const sigset_t& worker_mask, const Audience& audience);

}  // namespace syncbn::launch
