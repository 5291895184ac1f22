// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "launch/plan.h"

namespace syncbn::launch {

/// Runs a job in the foreground. A second process supervises the job. This process shows the output of the
/// ranks in `shown` and forwards SIGINT, SIGTERM and SIGHUP. Returns the job's exit code.
/// @throws std::system_error; nothing is left running
int run_in_foreground(const JobPlan& plan, const std::vector<int>& shown);

/// Starts a job that keeps running after this process has returned. Returns 0, or the exit code if the job
/// can't be started.
/// @throws std::system_error
int run_in_background(const JobPlan& plan);

}  // namespace syncbn::launch
