#include "launch/status_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/cores.h"

namespace syncbn::launch {
namespace {

std::string workers_here(const JobPlan& plan) {
  const Options& options = plan.options;
  if (plan.several_nodes())
    return fmt::format("{} of {} workers", options.local_worker_num, options.worker_num);
  return fmt::format("{} worker{}", options.local_worker_num, options.local_worker_num == 1 ? "" : "s");
}

}  // namespace

std::string status_text(const JobPlan& plan, const Progress& progress) {
  const int all = plan.options.worker_num;
  const std::string start = plan.restart > 0 ? fmt::format("restart {}, ", plan.restart) : "";
  if (plan.several_nodes() && progress.here < all) {
    const int missing = all - std::max(progress.here, plan.options.local_worker_num);  // these are here
    return start + fmt::format("waiting for the launchers of {} of {} workers", missing, all);
  }
  std::string text = start + fmt::format("{}: {} up, ", workers_here(plan), progress.up);
  if (plan.expects_joins()) text += fmt::format("{} joined, ", progress.joined);
  return text + fmt::format("{} running, {} done", progress.up - progress.ended, progress.ended);
}

std::string started_text(const JobPlan& plan, const std::vector<int>& ranks) {
  std::vector<int> sorted = ranks;
  std::sort(sorted.begin(), sorted.end());
  const std::string which =
      plan.several_nodes() ? fmt::format(" (rank{} {})", ranks.size() == 1 ? "" : "s", list_of(sorted)) : "";
  return fmt::format("started {}{}; logs: {}", workers_here(plan), which, plan.log_names());
}

}  // namespace syncbn::launch
