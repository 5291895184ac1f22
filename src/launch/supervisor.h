// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>

#include <functional>
#include <string>

#include "launch/plan.h"
#include "launch/status_message.h"

namespace syncbn::launch {

/// Takes the news of a job: its progress at every change, for the first time when the store is served (if
/// this launcher serves it), and its other Statuses. `text`: the lines of a Report or a Notice. A report
/// comes before a restart and at the end.
using Tell = std::function<void(const Status& status, const std::string& text)>;

/// Runs a whole job in the calling process, which must have one thread and no children. Serves the store,
/// starts the workers with `worker_mask` as their signal mask, sleeps until the job is over and ends it, so
/// that this process has no descendant left. Starts the job again if its workers failed and --max_restarts
/// allows it. SIGINT, SIGTERM and SIGHUP to this process end the job. Returns the launcher's exit code.
int supervise(const JobPlan& plan, const sigset_t& worker_mask, const Tell& tell);

}  // namespace syncbn::launch
