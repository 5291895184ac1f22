#pragma once

#include <string>
#include <vector>

#include "launch/plan.h"
#include "launch/supervisor.h"

/// How far a job has come, in words.
namespace syncbn::launch {

/// For the status line: "4 workers: 4 up, 3 joined, 4 running, 0 done".
std::string status_text(const JobPlan& plan, const Progress& progress);
/// "started 4 workers; logs: …"
std::string started_text(const JobPlan& plan, const std::vector<int>& ranks);

}  // namespace syncbn::launch
