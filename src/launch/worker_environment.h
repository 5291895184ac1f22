#pragma once

#include <string>
#include <vector>

#include "launch/plan.h"

/// What the processes of a job find in their environments: this process's, with what launchers say replaced.
/// Each is NAME=value, complete.
namespace syncbn::launch {

/// `local_rank` counts the ranks of this node.
std::vector<std::string> worker_environment(const JobPlan& plan, const WorkerSeat& seat, int rank,
                                            int local_rank);
std::vector<std::string> scheduler_environment(const JobPlan& plan);

}  // namespace syncbn::launch
