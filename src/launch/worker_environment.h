// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/plan.h"

/// Environments of a job's processes. They are copies of this process's environment with new values for the
/// variables that launchers set. Every entry is NAME=value.
namespace syncbn::launch {

/// `local_rank`: the place of `rank` among the ranks of this node.
std::vector<std::string> worker_environment(const JobPlan& plan, const WorkerSlot& slot, int rank,
                                            int local_rank);
std::vector<std::string> scheduler_environment(const JobPlan& plan);

}  // namespace syncbn::launch
