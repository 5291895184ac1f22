// SPDX-License-Identifier: Apache-2.0
#include "launch/supervisor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <optional>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "base/file_descriptor.h"
#include "base/host_identity.h"
#include "base/log_level.h"
#include "base/reminder.h"
#include "base/throw_errno.h"
#include "launch/exit_codes.h"
#include "launch/launcher_group.h"
#include "launch/log_tail.h"
#include "launch/node_workers.h"
#include "launch/process.h"
#include "launch/report.h"
#include "launch/signals.h"
#include "launch/status_text.h"

namespace syncbn::launch {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// For the peer that made a worker fail to end too, if its log shows an exception. An interpreter that has a
// failed rank's libraries and data to take down may need seconds.
constexpr seconds kEndingTime{10};
// For that peer to end or to print its exception.
constexpr seconds kCauseTime{1};
// The next two together are less than the second in which a job ends after its first failure.
constexpr milliseconds kOwnEndTime{250};     // for the other workers to report their errors and end
constexpr milliseconds kTerminateTime{400};  // between SIGTERM and SIGKILL
constexpr seconds kAnswerTime{1};            // for the announced end of the job to come back from the store
constexpr seconds kFarewellTime{2};          // for the other launchers to read the end of the job
constexpr seconds kRefusalTime{3};           // for late launchers to read why the job does not run
constexpr milliseconds kRetryTime{500};      // until the connection is looked at again
constexpr seconds kReconnectTime{5};         // after a restart; the slowest launcher ends processes first
// A worker that waits for missing peers gives up at the same time as its launcher, by its own clock. Its
// connection to the store lies between the two, at most so long; and at most a tenth of --cluster_time_out is
// given up for it.
constexpr milliseconds kJoinMargin{1000};

// A previous job with the same log directory may have been restarted.
void remove_logs_of_restarts(const std::filesystem::path& log) {
  std::error_code ignored;
  for (int i = 1; std::filesystem::remove(
           std::filesystem::path(log).replace_extension(fmt::format("restart_{}.log", i)), ignored);)
    ++i;
}

// Decides for one start of the job, on this node, when the workers start and when and why the job ends.
class Supervisor {
 public:
  /// Connects to the other launchers, and writes the free ports that the plan takes into it. `stop_signal`:
  /// the signal that arrived during the previous start, or 0.
  Supervisor(JobPlan& plan, const sigset_t& worker_mask, const Tell& tell, int stop_signal)
      : plan_(plan),
        worker_mask_(worker_mask),
        tell_(tell),
        signals_(stop_signal),
        arrive_by_(plan.cluster_time_out ? std::optional(steady_clock::now() + *plan.cluster_time_out)
                                         : std::nullopt),
        launchers_(plan, arrive_by_) {
    report_progress();
  }

  /// Starts the workers when all nodes have arrived. Sleeps until the job is over or has to be ended.
  void run() {
    while (!end_) {
      if (launchers_.membership().complete() && signals_.stop_signal() == 0 &&
          !std::exchange(all_arrived_, true))
        start_workers();
      else
        sleep(next_deadline());
      if (end_) break;
      tell_wait();
      if (!proposed_) {
        if (auto reason = reason_to_end()) propose(std::move(*reason));
      } else if (steady_clock::now() >= *answer_by_) {
        end_ = proposed_;
      }
    }
    if (launchers_.membership().complete()) launchers_.refuse_newcomers();
  }

  /// Ends every process that is left. Returns the report on the whole job.
  std::string end_processes() {
    if (signals_.stop_signal() == 0) sleep_until_childless(steady_clock::now() + kOwnEndTime);
    // The report that went to the other nodes has the end of the log. This node's console may have shown it
    // already.
    const std::vector<int> shown = plan_.options.join ? plan_.options.tail_worker_log : std::vector<int>{};
    std::string report = end_->report;
    if (ended_by_own_failure())
      report = end_by_failure(workers_.failures()[*proposed_failure_], workers_.plans(), plan_,
                              launchers_.membership().location(), shown)
                   .report;
    report += describe_later(later_failures(), workers_.plans(), shown);
    if (!report.empty() && !workers_.plans().empty())
      report += fmt::format("syncbn-run: logs: {}\n", plan_.log_names());
    if (end_->code == kSuccess)
      if (const auto orphans = workers_.orphans(); !orphans.empty())
        report += fmt::format("syncbn-run: the workers left processes behind ({}); they were ended\n",
                              fmt::join(orphans, ", "));
    workers_.terminate();
    sleep_until_childless(steady_clock::now() + kTerminateTime);
    all_ended_ = !workers_.has_children() || kill_descendants(kKillTime);
    if (!all_ended_)
      report += fmt::format("syncbn-run: processes that SIGKILL did not end within {} s: {}\n",
                            kKillTime.count() / 1000, fmt::join(children(), ", "));
    return report;
  }

  /// Serves the store until the other launchers have read the end of the job.
  void leave() {
    if (!launchers_.serves_store()) return;
    launchers_.disconnect();
    const Membership& membership = launchers_.membership();
    const bool refuses = membership.disagrees() || (plan_.restart > 0 && !membership.complete());
    const Deadline refuse_until = steady_clock::now() + kRefusalTime;
    const int signal_before = signals_.stop_signal();
    while (refuses && signals_.stop_signal() == signal_before && steady_clock::now() < refuse_until)
      sleep(refuse_until);
    launchers_.serve_until_idle(steady_clock::now() + kFarewellTime);
  }

  /// True if another start may succeed and --max_restarts allows one.
  bool may_restart() const {
    return end_->restartable && all_ended_ && plan_.restart < plan_.options.max_restarts;
  }
  /// The signal that was to end the job; 0 if there was none.
  int stop_signal() const { return signals_.stop_signal(); }
  int code() const { return end_->code; }
  int node() const { return launchers_.membership().placement().node; }

 private:
  // An error ends the job on all nodes.
  void start_workers() {
    arrive_by_.reset();
    const Membership& membership = launchers_.membership();
    try {
      std::vector<WorkerPlan> plans = plan_workers(plan_, membership.placement());
      if (launchers_.serves_store())
        if (auto scheduler = plan_scheduler(plan_)) plans.push_back(std::move(*scheduler));
      if (plan_.restart == 0)
        for (const WorkerPlan& worker : plans) remove_logs_of_restarts(worker.log);
      workers_.start(plan_.command, std::move(plans), worker_mask_);
      tell_(Started{membership.placement()}, "");
      if (plan_.expects_joins()) launchers_.follow_joins();
    } catch (const std::exception& error) {
      propose({kCannotStart,
               fmt::format("syncbn-run: can't run the job{}: {}\n", membership.location(), error.what())});
    }
    report_progress();
  }

  // Why the job must end now; none if the job continues.
  std::optional<JobEnd> reason_to_end() {
    const Membership& membership = launchers_.membership();
    const std::string location = membership.complete() ? membership.location() : " on " + base::host_name();
    if (signals_.stop_signal() != 0) {
      if (waits_for_connection()) return std::nullopt;
      return end_by_signal(signals_.stop_signal(), plan_.several_nodes() ? location : "");
    }
    if (arrive_by_ && steady_clock::now() >= *arrive_by_) {
      if (launchers_.connected()) return end_by_missing_nodes(membership, plan_);
      arrive_by_ = steady_clock::now() + kRetryTime;  // the connection is about to report why it failed
    }
    if (join_by_ && !cause_by_ && steady_clock::now() >= *join_by_ - join_margin())
      if (std::optional<JobEnd> end = describe_not_joined(location)) return end;
    if (!workers_.failures().empty()) {
      if (!finds_cause()) return std::nullopt;
      return end_by_failure(workers_.failures()[*proposed_failure_], workers_.plans(), plan_, location, {});
    }
    if (all_arrived_ && workers_.running() == 0 && !std::exchange(done_, true)) {
      launchers_.announce_done();  // if that fails, the connection reports why
      end_ = launchers_.end();
    }
    return std::nullopt;
  }

  // True while the end of a restarted job can't be announced to the other nodes, because this launcher is not
  // connected yet.
  bool waits_for_connection() {
    if (plan_.restart == 0 || !plan_.several_nodes() || launchers_.connected()) return false;
    if (!connect_by_) connect_by_ = steady_clock::now() + kReconnectTime;
    return steady_clock::now() < *connect_by_;
  }

  // Finds the failure to report as the first. A worker whose call failed because of a peer may end before
  // that peer does, here or on another node. False: keep waiting for the peer, as long as one may be ending.
  bool finds_cause() {
    const std::vector<Failure>& failures = workers_.failures();
    for (; effects_ < failures.size(); ++effects_) {
      if (had_peer_error(failures[effects_].rank)) continue;
      proposed_failure_ = effects_;
      return true;
    }
    if (!effect_at_) effect_at_ = steady_clock::now();
    cause_by_ = *effect_at_ + (peer_may_be_ending() ? kEndingTime : kCauseTime);
    const bool peers_run = workers_.running() > 0 || plan_.several_nodes();
    if (peers_run && steady_clock::now() < *cause_by_) return false;
    proposed_failure_ = 0;
    return true;
  }

  // The logs of other nodes' workers are out of sight.
  bool peer_may_be_ending() const {
    const std::vector<int> running = workers_.running_ranks();
    return plan_.several_nodes() || std::any_of(running.begin(), running.end(), [this](int rank) {
             return ends_with_exception(worker_log(plan_, rank));
           });
  }

  // A rank notes its PeerErrors in the store if syncbn joined its world. The ranks of PyTorch and MindSpore
  // have a world of their own: the error stands at the end of their logs.
  bool had_peer_error(int rank) {
    if (launchers_.had_peer_error(rank)) return true;
    return rank != kSchedulerRank && ends_with_peer_error(worker_log(plan_, rank));
  }

  // True if the job ended by a failure that this launcher has reported.
  bool ended_by_own_failure() const {
    const Membership& membership = launchers_.membership();
    return proposed_failure_ && (membership.own_end() || !membership.end());
  }

  // The failures that are not reported as the end of the job.
  std::vector<Failure> later_failures() const {
    std::vector<Failure> failures = workers_.failures();
    if (ended_by_own_failure())
      failures.erase(failures.begin() + static_cast<std::ptrdiff_t>(*proposed_failure_));
    return failures;
  }

  std::optional<Deadline> next_deadline() {
    if (proposed_) return answer_by_;
    if (signals_.stop_signal() != 0 && waits_for_connection()) return connect_by_;
    if (cause_by_) return cause_by_;
    const std::optional<Deadline> wait_until = arrive_by_ ? arrive_by_ : join_by_;
    if (!waits_for_others()) return wait_until;
    return std::min(wait_until.value_or(Deadline::max()), reminder_.next());
  }

  // True while other launchers are missing, or workers that have joined wait for workers of this node.
  bool waits_for_others() const {
    if (!all_arrived_) return true;
    return join_watch_begun_ && !not_joined().empty();
  }

  void tell_wait() {
    if (!waits_for_others() || !reminder_.is_due(steady_clock::now())) return;
    if (base::log_level() < base::LogLevel::warning) return;
    const std::set<int>& joined = launchers_.joined_ranks();
    tell_(Notice{},
          all_arrived_
              ? wait_for_workers_text(plan_, {joined.begin(), joined.end()}, not_joined(), join_by_)
              : wait_for_nodes_text(plan_, launchers_.membership(), launchers_.connected(), arrive_by_));
  }

  // The other workers must join in time once the first worker of the job has joined. Workers of a program
  // that never calls init() of syncbn have nothing to wait for.
  void watch_joins() {
    if (join_watch_begun_ || launchers_.joined_ranks().empty()) return;
    join_watch_begun_ = true;
    reminder_ = base::Reminder(steady_clock::now());
    if (plan_.cluster_time_out) join_by_ = steady_clock::now() + *plan_.cluster_time_out;
  }

  // The failure of a worker that gave up waiting would hide which workers are missing.
  steady_clock::duration join_margin() const {
    if (workers_.failures().empty()) return {};
    return std::min<steady_clock::duration>(kJoinMargin, milliseconds(*plan_.cluster_time_out) / 10);
  }

  // The end of the job if workers are missing at join_by_. A worker that exited with 0 without joining is not
  // missing.
  std::optional<JobEnd> describe_not_joined(const std::string& location) {
    join_by_.reset();
    const std::vector<int> missing = not_joined();
    if (missing.empty()) return std::nullopt;
    return end_by_missing_workers(missing, plan_, location);
  }

  // Running workers of this node that have not joined.
  std::vector<int> not_joined() const {
    std::vector<int> missing = workers_.running_ranks();
    std::erase_if(missing, [this](int rank) { return launchers_.joined_ranks().contains(rank); });
    return missing;
  }

  // The job ends with the first end in the store. If the store can't be asked, it ends with this one.
  void propose(JobEnd end) {
    proposed_ = std::move(end);
    answer_by_ = steady_clock::now() + kAnswerTime;
    end_ = launchers_.announce_end(*proposed_) ? launchers_.end() : proposed_;
  }

  void report_progress() {
    Progress progress;
    progress.workers_arrived = launchers_.membership().workers_arrived();
    progress.started = workers_.started();
    for (const WorkerPlan& worker : workers_.plans())
      progress.joined += launchers_.joined_ranks().contains(worker.rank) ? 1 : 0;
    progress.ended = workers_.started() - workers_.running();
    if (progress != reported_) tell_(reported_ = progress, "");
  }

  // Sleeps until something happens, at most until `deadline`.
  void sleep(std::optional<Deadline> deadline) {
    std::array<pollfd, 3> wake = {pollfd{signals_.fd(), POLLIN, 0}, pollfd{workers_.wake_fd(), POLLIN, 0},
                                  pollfd{launchers_.wake_fd(), POLLIN, 0}};
    if (poll(wake.data(), wake.size(), deadline ? base::poll_timeout(*deadline) : -1) < 0 && errno != EINTR)
      base::throw_errno("poll");
    signals_.read();
    workers_.reap();
    launchers_.read_updates();
    watch_joins();
    if (!end_) end_ = launchers_.end();
    report_progress();
  }

  // Sleeps until no child is left or another stop signal arrives, at most until `deadline`.
  void sleep_until_childless(Deadline deadline) {
    workers_.reap();
    const int signal_before = signals_.stop_signal();
    while (workers_.has_children() && signals_.stop_signal() == signal_before &&
           steady_clock::now() < deadline)
      sleep(deadline);
  }

  const JobPlan& plan_;
  const sigset_t& worker_mask_;
  const Tell& tell_;
  SignalReader signals_;
  std::optional<Deadline> arrive_by_;  // for the other nodes
  LauncherGroup launchers_;
  NodeWorkers workers_;
  bool all_arrived_ = false;  // all nodes have arrived, so the workers were started
  bool join_watch_begun_ = false;
  std::optional<Deadline> join_by_;               // for the workers
  base::Reminder reminder_{steady_clock::now()};  // of the wait for the other nodes, then for the workers
  bool done_ = false;       // all workers of this node have exited with 0; the other launchers know
  bool all_ended_ = false;  // no process is left
  Progress reported_{-1};
  std::size_t effects_ = 0;            // failures in a row, from the first, whose cause is a peer
  std::optional<Deadline> effect_at_;  // the first failure was noticed, and a peer is its cause
  std::optional<Deadline> cause_by_;
  std::optional<std::size_t> proposed_failure_;  // of workers_.failures()
  std::optional<Deadline> connect_by_;
  std::optional<JobEnd> proposed_;  // by this launcher
  std::optional<Deadline> answer_by_;
  std::optional<JobEnd> end_;
};

}  // namespace

int supervise(const JobPlan& plan, const sigset_t& worker_mask, const Tell& tell) {
  try {
    become_subreaper();
    signal(SIGPIPE, SIG_IGN);
    JobPlan start = plan;
    for (int stop_signal = 0;;) {
      Supervisor supervisor(start, worker_mask, tell, stop_signal);
      supervisor.run();
      std::string report = supervisor.end_processes();
      int code = supervisor.code();
      stop_signal = supervisor.stop_signal();
      const bool may_restart = supervisor.may_restart();
      // After a signal the launcher of one of several nodes restarts too: it then announces the signal to the
      // others.
      const bool restarts = may_restart && (stop_signal == 0 || start.several_nodes());
      if (report.empty()) report = "syncbn-run: all workers exited with 0\n";
      if (restarts) {
        report +=
            fmt::format("syncbn-run: restart {} of {}\n", start.restart + 1, start.options.max_restarts);
      } else if (may_restart) {
        const JobEnd end = end_by_signal(stop_signal, "");
        code = end.code;
        report += end.report;
      } else if (start.restart > 0) {
        report += fmt::format("syncbn-run: the job was restarted {} time{} (--max_restarts={})\n",
                              start.restart, start.restart == 1 ? "" : "s", start.options.max_restarts);
      }
      tell(Report{}, report);
      if (restarts) tell(Restarting{start.restart + 1}, "");
      supervisor.leave();
      if (!restarts) return code;
      start.options.node_rank = supervisor.node();  // the ranks stay the same
      ++start.restart;
    }
  } catch (const std::exception& error) {
    kill_descendants(kKillTime);
    tell(Report{}, fmt::format("syncbn-run: can't run the job: {}\n", error.what()));
    return kCannotStart;
  }
}

}  // namespace syncbn::launch
