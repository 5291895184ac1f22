#pragma once

#include <string>
#include <vector>

#include "launch/plan.h"

/// Environments of a job's processes: the variables of this process, of which those of launchers are
/// replaced. Every entry is NAME=value.
namespace syncbn::launch {

/// `local_rank`: the place of `rank` among the ranks of this node.
std::vector<std::string> worker_environment(const JobPlan& plan, const WorkerSlot& slot, int rank,
                                            int local_rank);
std::vector<std::string> scheduler_environment(const JobPlan& plan);

}  // namespace syncbn::launch
