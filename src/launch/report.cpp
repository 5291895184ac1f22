// SPDX-License-Identifier: Apache-2.0
#include "launch/report.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>

#include "base/rank_list.h"
#include "launch/exit_codes.h"
#include "launch/log_tail.h"
#include "launch/process.h"

namespace syncbn::launch {
namespace {

constexpr std::size_t kTailLines = 20;  // of the rank that failed first
// A rank that reports its failure to its peers may end after them. Its log then holds the cause.
constexpr std::size_t kLaterTailLines = 5;
constexpr std::size_t kLaterTails = 4;

std::string process_name(int rank) {
  return rank == kSchedulerRank ? "the scheduler" : fmt::format("rank {}", rank);
}

std::string log_end(int rank, std::size_t line_count, const std::vector<WorkerPlan>& workers,
                    const std::string& location, const std::vector<int>& shown) {
  const auto worker = std::find_if(workers.begin(), workers.end(),
                                   [rank](const WorkerPlan& each) { return each.rank == rank; });
  const std::string log = worker->log.string();
  const std::vector<std::string> lines = last_lines(log, line_count);
  if (lines.empty()) return fmt::format("syncbn-run: {}{} is empty\n", log, location);
  if (std::find(shown.begin(), shown.end(), rank) != shown.end()) return "";
  return fmt::format("syncbn-run: the end of {}{}:\n  | {}\n", log, location, fmt::join(lines, "\n  | "));
}

// MindSpore's init() asks for its own launchers if the variables of its scheduler are missing.
std::string hint_at_scheduler(int rank, const JobPlan& plan) {
  if (plan.options.ms_scheduler || rank == kSchedulerRank) return "";
  for (const std::string& line : last_lines(worker_log(plan, rank), kTailLines))
    if (line.find("mindspore.communication.init()") != std::string::npos &&
        line.find("'msrun'") != std::string::npos)
      return "syncbn-run: the program calls init() of MindSpore: start it with --ms_scheduler=True\n";
  return "";
}

}  // namespace

JobEnd end_by_failure(const Failure& first, const std::vector<WorkerPlan>& workers, const JobPlan& plan,
                      const std::string& location, const std::vector<int>& shown) {
  return {exit_code(first.status),
          fmt::format("syncbn-run: {}{} failed first: {}; the job was ended\n", process_name(first.rank),
                      location, describe_end(first.status)) +
              log_end(first.rank, kTailLines, workers, location, shown) + hint_at_scheduler(first.rank, plan),
          true};
}

JobEnd end_by_signal(int signal, const std::string& location) {
  return {kSignalBase + signal, fmt::format("syncbn-run: ended by {}{}\n", signal_name(signal), location)};
}

JobEnd end_by_missing_workers(const std::vector<int>& missing, const JobPlan& plan,
                              const std::string& location) {
  return {kNotJoined,
          fmt::format(
              "syncbn-run: {} of {} workers{} had not joined within {} s (--cluster_time_out) of the first: "
              "{}; the job was ended\n"
              "syncbn-run: a worker joins when it calls init() of syncbn; once one has joined, all must\n",
              missing.size(), plan.options.local_worker_num, location, plan.cluster_time_out->count(),
              base::rank_list(missing)),
          true};
}

JobEnd end_by_missing_nodes(const Membership& membership, const JobPlan& plan) {
  const int worker_num = plan.options.worker_num;
  const std::string hint = membership.on_loopback()
                               ? fmt::format(
                                     "syncbn-run: --master_addr={} is a loopback address: "
                                     "launchers on other machines can't reach it\n",
                                     plan.options.master_addr)
                               : "";
  return {kNotJoined,
          fmt::format("syncbn-run: can't run the job: {} of {} workers are missing after {} s "
                      "(--cluster_time_out) at {}:{}; present: {}\n{}",
                      worker_num - membership.workers_arrived(), worker_num, plan.cluster_time_out->count(),
                      plan.options.master_addr, plan.store_port, membership.describe_nodes(), hint)};
}

JobEnd end_by_unreachable_store(const std::string& why, const std::string& why_not_serving,
                                const JobPlan& plan, bool in_time) {
  const std::string waited =
      in_time ? "" : fmt::format(" within {} s (--cluster_time_out)", plan.cluster_time_out->count());
  const std::string serving =
      why_not_serving.empty()
          ? ""
          : fmt::format("syncbn-run: this launcher does not serve the job itself: {}\n", why_not_serving);
  return {in_time ? kCannotStart : kNotJoined,
          fmt::format("syncbn-run: can't run the job: no launcher of this job was found at {}:{}{}: {}\n{}",
                      plan.options.master_addr, plan.store_port, waited, why, serving)};
}

JobEnd end_by_lost_store(const Membership& membership, const std::string& why) {
  return {
      kSignalBase + SIGKILL,
      fmt::format("syncbn-run: {}, which served the job, was lost: {}; the job was ended\n",
                  membership.store_launcher().empty() ? "the launcher" : membership.store_launcher(), why)};
}

std::string describe_later(const std::vector<Failure>& failures, const std::vector<WorkerPlan>& workers,
                           const std::vector<int>& shown) {
  std::string text;
  for (std::size_t i = 0; i < failures.size(); ++i) {
    text += fmt::format("syncbn-run: {} failed after it: {}\n", process_name(failures[i].rank),
                        describe_end(failures[i].status));
    if (i < kLaterTails) text += log_end(failures[i].rank, kLaterTailLines, workers, "", shown);
  }
  return text;
}

}  // namespace syncbn::launch
