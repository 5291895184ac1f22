// SPDX-License-Identifier: Apache-2.0
#include "launch/wait_text.h"

#include <fmt/core.h>
#include <unistd.h>

#include "base/timeout.h"
#include "launch/addresses.h"
#include "launch/cores.h"

namespace syncbn::launch {
namespace {

std::string limit_text(const JobPlan& plan, std::optional<Deadline> until) {
  if (!until) return "without a limit (--cluster_time_out is negative)";
  return base::TimeLimit{*plan.cluster_time_out, "--cluster_time_out"}.text_until(*until);
}

std::string ranks_text(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", format_ranges(ranks));
}

}  // namespace

std::string wait_for_nodes_text(const JobPlan& plan, const Membership& membership, bool connected,
                                std::optional<Deadline> until) {
  const int missing = plan.options.worker_num - membership.workers_arrived();
  const std::string whom = connected ? fmt::format("the launchers of {} of {} workers (present: {})", missing,
                                                   plan.options.worker_num, membership.describe_nodes())
                                     : "the launcher that serves the job";
  return fmt::format("syncbn-run: launcher {} on {} waits at {}:{} for {}, {}\n", getpid(), host_name(),
                     plan.options.master_addr, plan.store_port, whom, limit_text(plan, until));
}

std::string wait_for_workers_text(const JobPlan& plan, const std::vector<int>& joined,
                                  const std::vector<int>& missing, std::optional<Deadline> until) {
  return fmt::format("syncbn-run: {} wait{} at {}:{} for {} to call init() of syncbn, {}\n",
                     ranks_text(joined), joined.size() == 1 ? "s" : "", plan.options.master_addr,
                     plan.store_port, ranks_text(missing), limit_text(plan, until));
}

}  // namespace syncbn::launch
