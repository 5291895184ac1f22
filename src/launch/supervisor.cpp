#include "launch/supervisor.h"

#include <fmt/core.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/exit_codes.h"
#include "launch/job_connection.h"
#include "launch/membership.h"
#include "launch/process.h"
#include "launch/report.h"
#include "rendezvous/socket.h"
#include "rendezvous/store_server.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

using base::Fd;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// What epoll tells of the signals and of the link, among the indices of workers.
constexpr std::size_t kSignals = SIZE_MAX;
constexpr std::size_t kLink = SIZE_MAX - 1;

// Together less than the second in which a job ends after its first failure.
constexpr milliseconds kCauseTime{250};  // for the peer that made a worker fail to end too
constexpr milliseconds kLastWords{250};  // for the other workers to say why they fail too
constexpr milliseconds kGrace{400};      // between SIGTERM and SIGKILL
constexpr milliseconds kKillTime{
    5000};  // SIGKILL takes microseconds, but not for a process stuck in a dead disk

constexpr seconds kAnswerTime{1};   // for the news of a job's end to come back from the store
constexpr seconds kFarewell{2};     // for the launchers of the other nodes to have read of the end
constexpr seconds kRefusalTime{3};  // for those that come a moment later, to read why there is no job
constexpr seconds kMeetAgain{
    5};  // for the launchers of a restarted job to meet: the slowest ends processes first
constexpr milliseconds kAskAgain{500};  // where the store could not be asked

void check(bool good, const char* call) {
  if (!good) throw std::system_error(errno, std::generic_category(), call);
}

// Readable when the process has ended. glibc 2.36 declares pidfd_open without C linkage.
base::Fd open_pidfd(pid_t pid) {
  base::Fd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  check(fd.get() >= 0, "pidfd_open");
  return fd;
}

// A job that had this log folder before may have been restarted.
void remove_logs_of_restarts(const std::filesystem::path& log) {
  std::error_code ignored;
  for (int i = 1; std::filesystem::remove(
           std::filesystem::path(log).replace_extension(fmt::format("restart_{}.log", i)), ignored);)
    ++i;
}

Node own_node(const JobPlan& plan, bool serves) {
  Node node;
  std::random_device random;
  node.id = fmt::format("{:08x}{:08x}", random(), random());
  node.worker_num = plan.dry_run() ? plan.options.local_worker_num : plan.options.worker_num;
  node.local_worker_num = plan.options.local_worker_num;
  node.max_restarts = plan.options.max_restarts;
  if (plan.several_nodes()) node.node_rank = plan.options.node_rank;
  node.rank_table = plan.rank_table_digest;
  node.server = plan.rank_table_server;
  node.serves = serves;
  node.pid = getpid();
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  node.host = host.data();
  return node;
}

class Supervisor {
 public:
  /// `stop_signal`: the one that came at the end of the start before, 0 where none did.
  Supervisor(const JobPlan& plan, const sigset_t& worker_mask, const Audience& audience, int stop_signal)
      : plan_(plan), worker_mask_(worker_mask), audience_(audience), stop_signal_(stop_signal) {
    // Signals are read from a descriptor, nowhere else; the threads, made later, inherit the mask.
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
    ::signal(SIGPIPE, SIG_IGN);
    signals_ = base::Fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    check(signals_.get() >= 0, "signalfd");
    epoll_ = base::Fd(epoll_create1(EPOLL_CLOEXEC));
    check(epoll_.get() >= 0, "epoll_create1");
    watch(signals_.get(), kSignals);
  }

  /// Serves the store if that is this launcher's part, and begins to look for the other nodes' launchers.
  void meet() {
    if (plan_.cluster_time_out) join_by_ = meet_by_ = steady_clock::now() + *plan_.cluster_time_out;
    if (plan_.dry_run()) return meet_nobody();
    try {
      store_.emplace(plan_.options.master_addr, plan_.store_port, plan_.start_token(),
                     rendezvous::StoreLimits{.members = rendezvous::members_of(plan_.options.worker_num)});
    } catch (const rendezvous::AddressUnavailable& error) {
      if (!plan_.several_nodes()) throw_cannot_serve(error);
      why_not_served_ = error.what();  // by the launcher that has that address
    } catch (const Error& error) {
      throw_cannot_serve(error);
    }
    self_ = own_node(plan_, store_.has_value());
    roll_.emplace(self_);
    link_.emplace(plan_, self_, meet_by_.value_or(Deadline::max()));
    watch(link_->wake_fd(), kLink);
    tell_progress();
  }

  /// Runs the workers when all nodes have met. Sleeps until the job is over or has to be ended.
  void run() {
    while (!end_) {
      if (roll_->complete() && stop_signal_ == 0 && !std::exchange(met_, true))
        start_workers();
      else
        sleep(next_deadline());
      if (end_) continue;
      if (!proposed_) {
        if (auto reason = reason_to_end()) propose(std::move(*reason));
      } else if (steady_clock::now() >= *answer_by_) {
        end_ = proposed_;
      }
    }
    if (store_ && roll_->complete()) store_->refuse_newcomers();  // they belong to the next job
  }

  /// Ends every process that is left. Returns what there is to say of the whole job.
  std::string finish() {
    std::string said = end_->text;
    if (stop_signal_ == 0) sleep_until(steady_clock::now() + kLastWords);        // helper processes end too
    const bool told = proposed_failure_ && (roll_->own_end() || !roll_->end());  // as the job's end
    said += describe_later({failures_.begin() + (told ? 1 : 0), failures_.end()}, plans_);
    if (!said.empty() && !plans_.empty()) said += fmt::format("syncbn-run: logs: {}\n", plan_.log_names());
    if (end_->code == kSuccess) said += describe_left_behind();
    ask_to_end();
    sleep_until(steady_clock::now() + kGrace);
    all_ended_ = childless_ || kill_descendants(kKillTime);
    if (!all_ended_)
      said += fmt::format("syncbn-run: processes that SIGKILL did not end within {} s: {}\n",
                          kKillTime.count() / 1000, fmt::join(children(), ", "));
    return said;
  }

  /// Goes on serving the store until the other launchers know of the end.
  void take_leave() {
    if (!store_) return;
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link_->wake_fd(), nullptr);
    link_.reset();
    const Deadline refuse_until = steady_clock::now() + kRefusalTime;
    const bool refuses = roll_->disagrees() || (plan_.restart > 0 && !roll_->complete());
    const int signal_before = stop_signal_;
    while (refuses && stop_signal_ == signal_before && steady_clock::now() < refuse_until)
      sleep(refuse_until);
    store_->wait_until_idle(steady_clock::now() + kFarewell);
  }

  /// Another start may do better, and the command line allows one.
  bool may_restart() const {
    return end_->of_workers && all_ended_ && plan_.restart < plan_.options.max_restarts;
  }
  /// The signal that was to end the job, 0 where there was none.
  int stop_signal() const { return stop_signal_; }
  int code() const { return end_->code; }
  int node() const { return roll_->placement().node; }

 private:
  struct Worker {
    pid_t pid;
    base::Fd alive;  ///< Its pidfd, closed when it has ended.
    int status;
  };

  [[noreturn]] static void throw_cannot_serve(const Error& error) {
    throw GroupError(
        fmt::format("{} (the workers meet there: --master_addr, and the port after --master_port, or "
                    "SYNCBN_PORT)",
                    error.what()));
  }

  void watch(int fd, std::size_t index) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = index;
    check(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
  }

  // A dry run: no store, and this launcher is the only one.
  void meet_nobody() {
    self_ = own_node(plan_, false);
    roll_.emplace(self_);
    roll_->read(has_come(self_));
    tell_progress();
  }

  // What goes wrong here ends the job on all nodes.
  void start_workers() {
    if (!plan_.expects_joins()) join_by_.reset();
    try {
      start_all();
    } catch (const std::exception& error) {
      propose(
          {kCannotStart, fmt::format("syncbn-run: can't run the job{}: {}\n", roll_->place(), error.what())});
    }
    tell_progress();
  }

  void start_all() {
    plans_ = plan_workers(plan_, roll_->placement());
    if (store_)
      if (auto scheduler = plan_scheduler(plan_)) plans_.push_back(std::move(*scheduler));
    std::vector<int> ranks;
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      if (plan_.restart == 0) remove_logs_of_restarts(plans_[i].log);
      const pid_t pid = start_worker(plan_.command, plans_[i], worker_mask_);
      index_of_[pid] = i;
      Worker& worker = workers_.emplace_back(Worker{pid, open_pidfd(pid), 0});
      watch(worker.alive.get(), i);
      if (plans_[i].rank == kSchedulerRank) continue;
      ranks.push_back(plans_[i].rank);
      ++running_;
    }
    up_ = ranks.size();
    audience_.started(ranks);
    if (audience_.progress && plan_.expects_joins()) link_->follow_joins();
  }

  std::optional<End> reason_to_end() {
    const std::string place = roll_->complete() ? roll_->place() : fmt::format(" on {}", self_.host);
    if (stop_signal_ != 0) {
      if (awaits_hearers()) return std::nullopt;
      return stopped(stop_signal_, plan_.several_nodes() ? place : "");
    }
    // A worker that waits for the others gives up as late as the launcher does: that it then fails is no
    // cause.
    if (join_by_ && !cause_by_ && steady_clock::now() >= *join_by_)
      if (std::optional<End> end = who_is_missing(place)) return end;
    if (!failures_.empty()) {
      if (!finds_cause()) return std::nullopt;
      proposed_failure_ = true;
      return failed(failures_[0], plans_, place);
    }
    // Where it can't be told, the link says why.
    if (met_ && running_ == 0 && !std::exchange(done_, true)) tell(is_done(self_));
    return std::nullopt;
  }

  // The other nodes of a restarted job wait for this one, and can be told that it ends when the link is
  // there.
  bool awaits_hearers() {
    if (plan_.restart == 0 || !plan_.several_nodes() || connected_) return false;
    if (!heard_by_) heard_by_ = steady_clock::now() + kMeetAgain;
    return steady_clock::now() < *heard_by_;
  }

  // Puts the failure that the job's end is to tell of in front. A worker whose call failed because of a peer
  // may end before that peer does, here or on another node. False: that is still waited for.
  bool finds_cause() {
    for (; asked_ < failures_.size(); ++asked_) {
      if (link_ && link_->had_peer_error(failures_[asked_].rank)) continue;
      const auto cause = failures_.begin() + static_cast<std::ptrdiff_t>(asked_);
      std::rotate(failures_.begin(), cause, cause + 1);
      return true;
    }
    if (!cause_by_) cause_by_ = steady_clock::now() + kCauseTime;
    return steady_clock::now() >= *cause_by_;
  }

  std::optional<Deadline> next_deadline() {
    if (proposed_) return answer_by_;
    if (stop_signal_ != 0 && awaits_hearers()) return heard_by_;
    return cause_by_ ? cause_by_ : join_by_;
  }

  std::optional<End> who_is_missing(const std::string& place) {
    join_by_.reset();
    if (connected_ && !met_) return not_met(*roll_, plan_);
    // A worker that has ended well without joining is not missed.
    std::vector<int> ranks;
    for (std::size_t i = 0; i < workers_.size(); ++i)
      if (workers_[i].alive.get() >= 0 && plans_[i].rank != kSchedulerRank) ranks.push_back(plans_[i].rank);
    const auto missing = link_->not_joined(ranks);
    if (!missing) join_by_ = steady_clock::now() + kAskAgain;
    if (!missing || missing->empty()) return std::nullopt;
    return not_joined(*missing, plan_, place);
  }

  // False: the other launchers can't be told.
  bool tell(const std::string& news) {
    if (link_) return link_->tell(news);
    roll_->read(news);
    end_ = roll_->end();
    return true;
  }

  // An end is what the store has first; if it can't be asked, what is known here.
  void propose(End end) {
    proposed_ = std::move(end);
    answer_by_ = steady_clock::now() + kAnswerTime;
    if (!tell(has_ended(self_, *proposed_))) end_ = proposed_;
  }

  void read_link() {
    Link::News news = link_->take();
    connected_ = news.connected;
    try {
      for (const std::string& text : news.of_nodes) roll_->read(text);
    } catch (const Error& error) {
      news.broken = error.what();
    }
    joined_.insert(news.joined.begin(), news.joined.end());
    if (!end_) end_ = roll_->end();
    if (!end_ && news.broken) {
      const bool in_time = !meet_by_ || steady_clock::now() < *meet_by_;
      end_ = connected_ ? lost(*roll_, *news.broken)
                        : not_reached(*news.broken, why_not_served_, plan_, in_time);
    }
    tell_progress();
  }

  void tell_progress() {
    if (!audience_.progress) return;
    Progress progress;
    progress.here = roll_->workers_come();
    progress.up = static_cast<int>(up_);
    for (const WorkerPlan& worker : plans_) progress.joined += joined_.contains(worker.rank) ? 1 : 0;
    progress.ended = static_cast<int>(up_ - running_);
    if (progress != told_) audience_.progress(told_ = progress);
  }

  // Until something happens, at most until `deadline`.
  void sleep(std::optional<Deadline> deadline) {
    std::vector<epoll_event> events(workers_.size() + 2);
    const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                 deadline ? rendezvous::poll_timeout(*deadline) : -1);
    check(count >= 0 || errno == EINTR, "epoll_wait");
    reap();
    // epoll lists what became ready first, first: workers that ended since the last sleep come in the order
    // of their ends, which waitpid() does not tell.
    for (int i = 0; i < count; ++i) {
      const std::size_t index = events[static_cast<std::size_t>(i)].data.u64;
      if (index == kSignals)
        read_signals();
      else if (index != kLink)
        note_end(index);
      else if (link_)
        read_link();
    }
  }

  // Until no child is left, a signal to stop comes, or `deadline`.
  void sleep_until(Deadline deadline) {
    reap();
    const int signal_before = stop_signal_;
    while (!childless_ && stop_signal_ == signal_before && steady_clock::now() < deadline) sleep(deadline);
  }

  // Takes note of every child that has ended, adopted ones too, so that no zombie is kept.
  void reap() {
    int status = 0;
    pid_t pid = 0;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
      if (const auto found = index_of_.find(pid); found != index_of_.end()) {
        workers_[found->second].status = status;
        index_of_.erase(found);
      }
    childless_ = pid < 0;
  }

  void note_end(std::size_t index) {
    Worker& worker = workers_[index];
    if (index_of_.erase(worker.pid) != 0) waitpid(worker.pid, &worker.status, 0);  // a debugger still has it
    // Closing is not enough: a worker that was just forked has a copy until it execs, which keeps the entry
    // alive.
    check(epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, worker.alive.get(), nullptr) == 0, "epoll_ctl");
    worker.alive = base::Fd();
    if (plans_[index].rank != kSchedulerRank) --running_;
    if (worker.status != 0) failures_.push_back({plans_[index].rank, worker.status});
    tell_progress();
  }

  void read_signals() {
    signalfd_siginfo info{};
    while (read(signals_.get(), &info, sizeof(info)) == sizeof(info))
      if (info.ssi_signo != SIGCHLD && stop_signal_ == 0) stop_signal_ = static_cast<int>(info.ssi_signo);
  }

  std::string describe_left_behind() const {
    std::vector<pid_t> left;
    for (const pid_t child : children())
      if (!index_of_.contains(child)) left.push_back(child);  // the scheduler is expected
    if (left.empty()) return "";
    return fmt::format("syncbn-run: the workers left processes behind ({}); they were ended\n",
                       fmt::join(left, ", "));
  }

  // SIGTERM to the groups of the workers that run, and to the processes that were orphaned to this one.
  void ask_to_end() {
    for (const pid_t child : children())
      if (!index_of_.contains(child) || kill(-child, SIGTERM) != 0) kill(child, SIGTERM);
  }

  const JobPlan& plan_;
  const sigset_t& worker_mask_;
  const Audience& audience_;
  base::Fd signals_;
  base::Fd epoll_;
  std::optional<rendezvous::StoreServer> store_;
  std::string why_not_served_;
  Node self_;
  std::optional<Roll> roll_;
  std::optional<Link> link_;
  bool connected_ = false;
  bool met_ = false;  // and so the workers were started
  std::vector<WorkerPlan> plans_;
  std::vector<Worker> workers_;            // in the order of plans_
  std::map<pid_t, std::size_t> index_of_;  // of the workers that were not waited for
  std::size_t up_ = 0;                     // workers that were started
  std::size_t running_ = 0;                // those of them that have not ended
  bool childless_ = false;
  bool all_ended_ = false;
  std::set<int> joined_;
  Progress told_{-1};
  std::optional<Deadline> meet_by_;
  std::optional<Deadline> join_by_;
  std::vector<Failure> failures_;  // in the order of their ends, the cause first
  std::size_t asked_ = 0;          // those of them that are not the cause
  std::optional<Deadline> cause_by_;
  int stop_signal_;
  std::optional<Deadline> heard_by_;
  bool done_ = false;              // this node's workers, and the others were told
  std::optional<End> proposed_;    // by this launcher
  bool proposed_failure_ = false;  // failures_[0] is what it proposed
  std::optional<Deadline> answer_by_;
  std::optional<End> end_;
};

// What is left to do where there is no further start. Returns the launcher's exit code.
int leave(Supervisor& supervisor, const JobPlan& plan, std::string said, const Audience& audience) {
  int code = supervisor.code();
  if (supervisor.may_restart()) {  // but for this signal
    const End end = stopped(supervisor.stop_signal(), "");
    code = end.code;
    said += end.text;
  } else if (plan.restart > 0) {
    const std::string well = said.empty() ? "syncbn-run: all workers exited with 0\n" : "";
    said += fmt::format("{}syncbn-run: the job was restarted {} time{} (--max_restarts={})\n", well,
                        plan.restart, plan.restart == 1 ? "" : "s", plan.options.max_restarts);
  }
  audience.tell(said);
  supervisor.take_leave();
  return code;
}

}  // namespace

int supervise(const JobPlan& plan, const sigset_t& worker_mask, const Audience& audience) {
  try {
    become_subreaper();
    JobPlan start = plan;
    for (int stop_signal = 0;;) {
      Supervisor supervisor(start, worker_mask, audience, stop_signal);
      supervisor.meet();
      supervisor.run();
      std::string said = supervisor.finish();
      stop_signal = supervisor.stop_signal();
      // On several nodes the others begin again, where they are told.
      if (!supervisor.may_restart() || (stop_signal != 0 && !start.several_nodes())) {
        return leave(supervisor, start, said, audience);
      }
      audience.restarting(start.restart + 1,
                          said + fmt::format("syncbn-run: restart {} of {}\n", start.restart + 1,
                                             start.options.max_restarts));
      supervisor.take_leave();
      start.options.node_rank = supervisor.node();  // ranks stay where they were
      ++start.restart;
    }
  } catch (const std::exception& error) {
    kill_descendants(kKillTime);
    audience.tell(fmt::format("syncbn-run: can't run the job: {}\n", error.what()));
    return kCannotStart;
  }
}

}  // namespace syncbn::launch
