#include "launch/report.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>

#include "launch/exit_codes.h"
#include "launch/log_tail.h"
#include "launch/process.h"

namespace syncbn::launch {
namespace {

constexpr std::size_t kTailLines = 20;  // of the rank that failed first
constexpr std::size_t kMoreTailLines =
    5;  // of those that failed after it: a rank that tells its peers of its failure
constexpr std::size_t kMoreTails = 4;  // may end after them, and then the cause stands here

std::string who(int rank) { return rank == kSchedulerRank ? "the scheduler" : fmt::format("rank {}", rank); }

std::string log_end(int rank, std::size_t line_count, const std::vector<WorkerPlan>& workers,
                    const std::string& place) {
  const auto worker = std::find_if(workers.begin(), workers.end(),
                                   [rank](const WorkerPlan& each) { return each.rank == rank; });
  const std::string log = worker->log.string();
  const std::vector<std::string> lines = last_lines(log, line_count);
  if (lines.empty()) return fmt::format("syncbn-run: {}{} is empty\n", log, place);
  return fmt::format("syncbn-run: the end of {}{}:\n  | {}\n", log, place, fmt::join(lines, "\n  | "));
}

}  // namespace

End failed(const Failure& first, const std::vector<WorkerPlan>& workers, const std::string& place) {
  return {exit_code(first.status),
          fmt::format("syncbn-run: {}{} failed first: {}; the job was ended\n", who(first.rank), place,
                      describe_end(first.status)) +
              log_end(first.rank, kTailLines, workers, place),
          true};
}

End stopped(int signal, const std::string& place) {
  return {kSignalBase + signal, fmt::format("syncbn-run: ended by {}{}\n", signal_name(signal), place)};
}

End not_joined(const std::vector<int>& missing, const JobPlan& plan, const std::string& place) {
  return {kNotJoined,
          fmt::format("syncbn-run: {} of {} workers{} had not joined within {} s (--cluster_time_out): "
                      "rank {}; the job was ended\n"
                      "syncbn-run: a worker joins by init() of syncbn; for programs that never do, "
                      "--cluster_time_out=-1 is right\n",
                      missing.size(), plan.options.local_worker_num, place, plan.cluster_time_out->count(),
                      fmt::join(missing, ", ")),
          true};
}

End not_met(const Roll& roll, const JobPlan& plan) {
  const int worker_num = plan.options.worker_num;
  const std::string hint = roll.on_loopback()
                               ? fmt::format(
                                     "syncbn-run: --master_addr={} is this machine's own name for itself: "
                                     "launchers on other machines find nobody there\n",
                                     plan.options.master_addr)
                               : "";
  return {kNotJoined,
          fmt::format("syncbn-run: can't run the job: {} of {} workers are missing after {} s "
                      "(--cluster_time_out) at {}:{}; announced were {}\n{}",
                      worker_num - roll.workers_come(), worker_num, plan.cluster_time_out->count(),
                      plan.options.master_addr, plan.store_port, roll.attendance(), hint)};
}

End not_reached(const std::string& why, const std::string& why_not_served, const JobPlan& plan,
                bool in_time) {
  const std::string waited =
      in_time ? "" : fmt::format(" within {} s (--cluster_time_out)", plan.cluster_time_out->count());
  const std::string served =
      why_not_served.empty()
          ? ""
          : fmt::format("syncbn-run: this launcher does not serve the job itself: {}\n", why_not_served);
  return {in_time ? kCannotStart : kNotJoined,
          fmt::format("syncbn-run: can't run the job: no launcher of it was found at {}:{}{}: {}\n{}",
                      plan.options.master_addr, plan.store_port, waited, why, served)};
}

End lost(const Roll& roll, const std::string& why) {
  return {kSignalBase + SIGKILL,
          fmt::format("syncbn-run: {}, which served the job, was lost: {}; the job was ended\n",
                      roll.server().empty() ? "the launcher" : roll.server(), why)};
}

std::string describe_later(const std::vector<Failure>& failures, const std::vector<WorkerPlan>& workers) {
  std::string text;
  for (std::size_t i = 0; i < failures.size(); ++i) {
    text += fmt::format("syncbn-run: {} failed after it: {}\n", who(failures[i].rank),
                        describe_end(failures[i].status));
    if (i < kMoreTails) text += log_end(failures[i].rank, kMoreTailLines, workers, "");
  }
  return text;
}

}  // namespace syncbn::launch
