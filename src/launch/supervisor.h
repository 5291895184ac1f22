// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>

#include <string>

#include "launch/plan.h"
#include "launch/status_message.h"

namespace syncbn::launch {

/// Is informed of the progress and the end of a job.
class JobObserver {
 public:
  virtual ~JobObserver() = default;
  /// Called at every change, for the first time when the store is served (if this launcher serves it).
  virtual void on_progress(const Progress& progress) = 0;
  /// All workers of this node were started.
  virtual void on_started(const Placement& placement) = 0;
  /// Lines for people to read while the job goes on.
  virtual void on_notice(const std::string& lines) = 0;
  /// Lines for people, before a restart and at the end.
  virtual void on_report(const std::string& lines) = 0;
  /// The job starts again for the `restart`-th time.
  virtual void on_restart(int restart) = 0;
};

/// Runs a whole job in the calling process, which must have one thread and no children. Serves the store,
/// starts the workers with `worker_mask` as their signal mask, sleeps until the job is over and ends it, so
/// that this process has no descendant left. Starts the job again if its workers failed and --max_restarts
/// allows it. SIGINT, SIGTERM and SIGHUP to this process end the job. Returns the launcher's exit code.
int supervise(const JobPlan& plan, const sigset_t& worker_mask, JobObserver& observer);

}  // namespace syncbn::launch
