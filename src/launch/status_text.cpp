// SPDX-License-Identifier: Apache-2.0
#include "launch/status_text.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>

#include "base/host_identity.h"
#include "base/rank_list.h"
#include "base/timeout.h"

namespace syncbn::launch {
namespace {

std::string local_workers(const JobPlan& plan) {
  const Options& options = plan.options;
  if (plan.several_nodes())
    return fmt::format("{} of {} workers", options.local_worker_num, options.worker_num);
  return fmt::format("{} worker{}", options.local_worker_num, options.local_worker_num == 1 ? "" : "s");
}

std::string limit_text(const JobPlan& plan, std::optional<Deadline> until) {
  if (!until) return "without a limit (--cluster_time_out is negative)";
  return base::TimeLimit{*plan.cluster_time_out, "--cluster_time_out"}.text_until(*until);
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
  const std::string which = plan.several_nodes() ? fmt::format(" ({})", base::rank_list(ranks)) : "";
  return fmt::format("started {}{}; logs: {}", local_workers(plan), which, plan.log_names());
}

std::string wait_for_nodes_text(const JobPlan& plan, const Membership& membership, bool connected,
                                std::optional<Deadline> until) {
  const int missing = plan.options.worker_num - membership.workers_arrived();
  const std::string whom = connected ? fmt::format("the launchers of {} of {} workers (present: {})", missing,
                                                   plan.options.worker_num, membership.describe_nodes())
                                     : "the launcher that serves the job";
  return fmt::format("syncbn-run: launcher {} on {} waits at {}:{} for {}, {}\n", getpid(), base::host_name(),
                     plan.options.master_addr, plan.store_port, whom, limit_text(plan, until));
}

std::string wait_for_workers_text(const JobPlan& plan, const std::vector<int>& joined,
                                  const std::vector<int>& missing, std::optional<Deadline> until) {
  return fmt::format("syncbn-run: {} wait{} at {}:{} for {} to call init() of syncbn, {}\n",
                     base::rank_list(joined), joined.size() == 1 ? "s" : "", plan.options.master_addr,
                     plan.store_port, base::rank_list(missing), limit_text(plan, until));
}

}  // namespace syncbn::launch
