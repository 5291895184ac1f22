// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/membership.h"
#include "launch/plan.h"
#include "syncbn/communicator.h"

/// Lines about a long wait: who waits, where, for whom, until when, and which option changes it.
namespace syncbn::launch {

/// `connected`: this launcher has reached the launcher that serves the store. `until`: none if there is no
/// limit.
std::string wait_for_nodes_text(const JobPlan& plan, const Membership& membership, bool connected,
                                std::optional<Deadline> until);
/// `joined`: ranks of the job that have joined. `missing`: ranks of this node that have not. Both ascend.
std::string wait_for_workers_text(const JobPlan& plan, const std::vector<int>& joined,
                                  const std::vector<int>& missing, std::optional<Deadline> until);

}  // namespace syncbn::launch
