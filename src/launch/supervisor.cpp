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
#include <map>
#include <optional>
#include <system_error>
#include <vector>

#include "group/socket.h"
#include "group/store_server.h"
#include "launch/exit_codes.h"
#include "launch/process.h"
#include "launch/report.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

using group::Fd;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::size_t kSignals = SIZE_MAX;  // among the indices of workers, what epoll tells of the signals

// Together less than the second in which a job ends after its first failure.
constexpr milliseconds kLastWords{250};  // for the other workers to say why they fail too
constexpr milliseconds kGrace{400};      // between SIGTERM and SIGKILL
constexpr milliseconds kKillTime{
    5000};  // SIGKILL takes microseconds, but not for a process stuck in a dead disk

void check(bool good, const char* call) {
  if (!good) throw std::system_error(errno, std::generic_category(), call);
}

// Readable when the process has ended. glibc 2.36 declares pidfd_open without C linkage.
Fd open_pidfd(pid_t pid) {
  Fd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  check(fd.get() >= 0, "pidfd_open");
  return fd;
}

class Supervisor {
 public:
  Supervisor(const JobPlan& plan, const Audience& audience) : plan_(plan), audience_(audience) {
    // Signals are read from a descriptor, nowhere else; the store's thread, made later, inherits the mask.
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
    ::signal(SIGPIPE, SIG_IGN);
    signals_ = Fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    check(signals_.get() >= 0, "signalfd");
    epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    check(epoll_.get() >= 0, "epoll_create1");
    watch(signals_, kSignals);
  }

  void start(const sigset_t& worker_mask) {
    if (plan_.expects_joins() && plan_.cluster_time_out)
      join_by_ = steady_clock::now() + *plan_.cluster_time_out;
    if (!plan_.dry_run()) serve_store();
    audience_.progress(progress_);
    plans_ = plan_workers(plan_, {});
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      const pid_t pid = start_worker(plan_.command, plans_[i], worker_mask);
      index_of_[pid] = i;
      Worker& worker = workers_.emplace_back(Worker{pid, open_pidfd(pid), 0});
      watch(worker.alive, i);
      ++running_;
      ++progress_.up;
      audience_.progress(progress_);
    }
  }

  const std::vector<WorkerPlan>& plans() const { return plans_; }

  /// Sleeps until the job is over or has to be ended.
  Outcome wait() {
    while (running_ > 0 && failures_.empty() && stop_signal_ == 0) {
      sleep(join_by_);
      if (!join_by_ || steady_clock::now() < *join_by_) continue;
      join_by_.reset();
      if (std::vector<int> missing = never_joined();
          !missing.empty() && failures_.empty() && stop_signal_ == 0)
        return {Outcome::Kind::not_joined, {}, 0, std::move(missing)};
    }
    if (stop_signal_ != 0) return {Outcome::Kind::stopped, {}, stop_signal_, {}};
    if (failures_.empty()) return {};
    sleep_until(steady_clock::now() + kLastWords);
    return {Outcome::Kind::worker_failed, failures_, 0, {}};
  }

  /// Ends every process that is left. Returns what there is to say of it.
  std::string end(bool job_is_over) {
    std::string said;
    if (job_is_over) {
      sleep_until(steady_clock::now() + kLastWords);  // helper processes end a moment after their program
      if (!childless_)
        said = fmt::format("syncbn-run: the workers left processes behind ({}); they were ended\n",
                           fmt::join(children(), ", "));
    }
    ask_to_end();
    sleep_until(steady_clock::now() + kGrace);
    if (!childless_ && !kill_descendants(kKillTime))
      said += fmt::format("syncbn-run: processes that SIGKILL did not end within {} s: {}\n",
                          kKillTime.count() / 1000, fmt::join(children(), ", "));
    return said;
  }

 private:
  void serve_store() {
    try {
      store_.emplace(plan_.options.master_addr, plan_.store_port, plan_.token);
    } catch (const Error& error) {
      throw GroupError(
          fmt::format("{} (the workers meet there: --master_addr, and the port after --master_port, or "
                      "SYNCBN_PORT)",
                      error.what()));
    }
  }

  struct Worker {
    pid_t pid;
    Fd alive;  ///< Its pidfd, closed when it has ended.
    int status;
  };

  void watch(const Fd& fd, std::size_t index) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = index;
    check(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) == 0, "epoll_ctl");
  }

  // Until something happens, at most until `deadline`.
  void sleep(std::optional<Deadline> deadline) {
    std::vector<epoll_event> events(workers_.size() + 1);
    const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                 deadline ? group::poll_timeout(*deadline) : -1);
    check(count >= 0 || errno == EINTR, "epoll_wait");
    reap();
    // epoll lists what became ready first, first: workers that ended since the last sleep come in the order
    // of their ends, which waitpid() does not tell.
    for (int i = 0; i < count; ++i) {
      const std::size_t index = events[static_cast<std::size_t>(i)].data.u64;
      if (index == kSignals)
        read_signals();
      else
        note_end(index);
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
    worker.alive = Fd();
    --running_;
    ++progress_.ended;
    audience_.progress(progress_);
    if (worker.status != 0) failures_.push_back({plans_[index].rank, worker.status});
  }

  void read_signals() {
    signalfd_siginfo info{};
    while (read(signals_.get(), &info, sizeof(info)) == sizeof(info))
      if (info.ssi_signo != SIGCHLD && stop_signal_ == 0) stop_signal_ = static_cast<int>(info.ssi_signo);
  }

  // A worker that has ended well without joining is not missed.
  std::vector<int> never_joined() const {
    std::vector<int> missing;
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      const int rank = plans_[i].rank;
      if (workers_[i].alive.get() >= 0 && store_->counter(group::joined_counter(rank)) == 0)
        missing.push_back(rank);
    }
    return missing;
  }

  // SIGTERM to the groups of the workers that run, and to the processes that were orphaned to this one.
  void ask_to_end() {
    for (const pid_t child : children())
      if (!index_of_.contains(child) || kill(-child, SIGTERM) != 0) kill(child, SIGTERM);
  }

  const JobPlan& plan_;
  const Audience& audience_;
  Progress progress_{plan_.options.worker_num};
  Fd signals_;
  Fd epoll_;
  std::optional<group::StoreServer> store_;
  std::vector<WorkerPlan> plans_;
  std::vector<Worker> workers_;            // in the order of plans_
  std::map<pid_t, std::size_t> index_of_;  // of the workers that were not waited for
  std::size_t running_ = 0;
  bool childless_ = false;
  std::optional<Deadline> join_by_;
  std::vector<Outcome::Failure> failures_;
  int stop_signal_ = 0;
};

}  // namespace

int supervise(const JobPlan& plan, const sigset_t& worker_mask, const Audience& audience) {
  try {
    become_subreaper();
    Supervisor supervisor(plan, audience);
    supervisor.start(worker_mask);
    std::vector<int> ranks;
    for (const WorkerPlan& worker : supervisor.plans()) ranks.push_back(worker.rank);
    audience.started(ranks);
    const Outcome outcome = supervisor.wait();
    const std::string said = supervisor.end(outcome.kind == Outcome::Kind::all_succeeded);
    audience.tell(describe(outcome, plan, supervisor.plans()) + said);
    return exit_code(outcome);
  } catch (const std::exception& error) {
    kill_descendants(kKillTime);
    audience.tell(fmt::format("syncbn-run: can't run the job: {}\n", error.what()));
    return kCannotStart;
  }
}

}  // namespace syncbn::launch
