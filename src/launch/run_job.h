#pragma once

#include <vector>

#include "launch/plan.h"

namespace syncbn::launch {

/// Runs a job for the console: a second process supervises it, this one shows the output of the ranks in
/// `shown` and hands on SIGINT, SIGTERM and SIGHUP. Returns the job's exit code.
/// @throws std::system_error; nothing is then left running
int run_in_front(const JobPlan& plan, const std::vector<int>& shown);

/// Starts a job that goes on by itself when this process returns. Returns 0, or the exit code where it can't
/// be started.
/// @throws std::system_error
int run_in_background(const JobPlan& plan);

}  // namespace syncbn::launch
