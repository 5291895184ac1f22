// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/plan.h"
#include "launch/status_message.h"

/// Descriptions of a job's progress.
namespace syncbn::launch {

/// For the status line: "4 workers: 4 up, 3 joined, 4 running, 0 done".
std::string status_text(const JobPlan& plan, const Progress& progress);
/// After the start of the workers: "started 4 workers; logs: …".
std::string started_text(const JobPlan& plan, const Placement& placement);

}  // namespace syncbn::launch
