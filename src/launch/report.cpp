#include "launch/report.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>

#include "launch/exit_codes.h"
#include "launch/log_tail.h"
#include "launch/process.h"

namespace syncbn::launch {
namespace {

constexpr std::size_t kTailLines = 20;  // of the rank that failed first
constexpr std::size_t kMoreTailLines =
    5;  // of those that failed after it: a rank that tells its peers of its failure
constexpr std::size_t kMoreTails = 4;  // may end after them, and then the cause stands here

std::string log_end(int rank, std::size_t line_count, const std::vector<WorkerPlan>& workers) {
  const auto worker = std::find_if(workers.begin(), workers.end(),
                                   [rank](const WorkerPlan& each) { return each.rank == rank; });
  const std::string log = worker->log.string();
  const std::vector<std::string> lines = last_lines(log, line_count);
  if (lines.empty()) return fmt::format("syncbn-run: {} is empty\n", log);
  return fmt::format("syncbn-run: the end of {}:\n  | {}\n", log, fmt::join(lines, "\n  | "));
}

std::string describe_failures(const std::vector<Outcome::Failure>& failures,
                              const std::vector<WorkerPlan>& workers) {
  std::string text = fmt::format("syncbn-run: rank {} failed first: {}; the job was ended\n",
                                 failures[0].rank, describe_end(failures[0].status));
  text += log_end(failures[0].rank, kTailLines, workers);
  for (std::size_t i = 1; i < failures.size(); ++i) {
    text += fmt::format("syncbn-run: rank {} failed after it: {}\n", failures[i].rank,
                        describe_end(failures[i].status));
    if (i <= kMoreTails) text += log_end(failures[i].rank, kMoreTailLines, workers);
  }
  return text;
}

std::string describe_missing(const Outcome& outcome, const JobPlan& plan) {
  return fmt::format(
      "syncbn-run: {} of {} workers had not joined within {} s (--cluster_time_out): rank {}; the job was "
      "ended\n"
      "syncbn-run: a worker joins by init() of syncbn; for programs that never do, --cluster_time_out=-1 is "
      "right\n",
      outcome.missing.size(), plan.options.local_worker_num, plan.cluster_time_out->count(),
      fmt::join(outcome.missing, ", "));
}

}  // namespace

int exit_code(const Outcome& outcome) {
  switch (outcome.kind) {
    case Outcome::Kind::all_succeeded:
      return kSuccess;
    case Outcome::Kind::worker_failed:
      return exit_code(outcome.failures.front().status);
    case Outcome::Kind::stopped:
      return kSignalBase + outcome.signal;
    case Outcome::Kind::not_joined:
      return kNotJoined;
  }
  return kCannotStart;
}

std::string describe(const Outcome& outcome, const JobPlan& plan, const std::vector<WorkerPlan>& workers) {
  std::string text;
  switch (outcome.kind) {
    case Outcome::Kind::all_succeeded:
      return "";
    case Outcome::Kind::worker_failed:
      text = describe_failures(outcome.failures, workers);
      break;
    case Outcome::Kind::stopped:
      text = fmt::format("syncbn-run: ended by {}\n", signal_name(outcome.signal));
      break;
    case Outcome::Kind::not_joined:
      text = describe_missing(outcome, plan);
      break;
  }
  return text + fmt::format("syncbn-run: logs: {}\n", plan.log_names);
}

}  // namespace syncbn::launch
