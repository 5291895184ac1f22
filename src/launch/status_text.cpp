// SPDX-License-Identifier: Apache-2.0
#include "launch/status_text.h"

#include <fmt/core.h>

#include <algorithm>
#include <vector>

#include "launch/cores.h"

namespace syncbn::launch {
namespace {

std::string local_workers(const JobPlan& plan) {
  const Options& options = plan.options;
  if (plan.several_nodes())
    return fmt::format("{} of {} workers", options.local_worker_num, options.worker_num);
  return fmt::format("{} worker{}", options.local_worker_num, options.local_worker_num == 1 ? "" : "s");
}

}  // namespace

std::string status_text(const JobPlan& plan, const Progress& progress) {
  const int all = plan.options.worker_num;
  const std::string start = plan.restart > 0 ? fmt::format("restart {}, ", plan.restart) : "";
  if (plan.several_nodes() && progress.workers_arrived < all) {
    // The launcher counts its own workers before its arrival is in the store.
    const int missing = all - std::max(progress.workers_arrived, plan.options.local_worker_num);
    return start + fmt::format("waiting for the launchers of {} of {} workers", missing, all);
  }
  std::string text = start + fmt::format("{}: {} up, ", local_workers(plan), progress.started);
  if (plan.expects_joins()) text += fmt::format("{} joined, ", progress.joined);
  return text + fmt::format("{} running, {} done", progress.started - progress.ended, progress.ended);
}

std::string started_text(const JobPlan& plan, const Placement& placement) {
  std::vector<int> ranks = local_ranks(plan, placement);
  std::sort(ranks.begin(), ranks.end());
  const std::string which =
      plan.several_nodes() ? fmt::format(" (rank{} {})", ranks.size() == 1 ? "" : "s", format_ranges(ranks))
                           : "";
  return fmt::format("started {}{}; logs: {}", local_workers(plan), which, plan.log_names());
}

}  // namespace syncbn::launch
