// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/membership.h"
#include "launch/plan.h"
#include "launch/status_message.h"
#include "syncbn/communicator.h"

/// Descriptions of a job's progress, and lines about a long wait: who waits, where, for whom, until when, and
/// which option changes it.
namespace syncbn::launch {

/// For the status line: "4 workers: 4 up, 3 joined, 4 running, 0 done".
std::string status_text(const JobPlan& plan, const Progress& progress);
/// After the start of the workers: "started 4 workers; logs: …".
std::string started_text(const JobPlan& plan, const Placement& placement);

/// `connected`: this launcher has reached the launcher that serves the store. `until`: none if there is no
/// limit.
std::string wait_for_nodes_text(const JobPlan& plan, const Membership& membership, bool connected,
                                std::optional<Deadline> until);
/// `joined`: ranks of the job that have joined. `missing`: ranks of this node that have not. Both ascend.
std::string wait_for_workers_text(const JobPlan& plan, const std::vector<int>& joined,
                                  const std::vector<int>& missing, std::optional<Deadline> until);

}  // namespace syncbn::launch
