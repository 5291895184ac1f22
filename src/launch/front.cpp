#include "launch/front.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "group/socket.h"
#include "launch/exit_codes.h"
#include "launch/log_tail.h"
#include "launch/process.h"
#include "launch/supervisor.h"

// Two processes, so that neither can be lost without the other ending the job. The supervisor has a session
// of its own and never writes to the console, which may be stopped (Ctrl-S, a pager). Where the front dies,
// even by SIGKILL, the supervisor gets SIGTERM; where the supervisor is killed, the front inherits what it
// looked after.
namespace syncbn::launch {
namespace {

using group::Fd;

// What the supervisor writes first, when all workers run; everything else is text for people.
constexpr char kStarted = '+';
constexpr std::chrono::milliseconds kKillTime{5000};
constexpr std::array kStopSignals = {SIGINT, SIGTERM, SIGHUP};

volatile std::sig_atomic_t supervisor_pid = 0;

void hand_on(int signal) {
  if (supervisor_pid > 0) kill(supervisor_pid, signal);
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = write(fd, text.data(), text.size());
    if (size > 0) {
      text.remove_prefix(static_cast<std::size_t>(size));
    } else if (errno == EAGAIN) {  // another program that shares the console has made it so
      pollfd ready{fd, POLLOUT, 0};
      poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return;  // nobody is left to read it
    }
  }
}

// Lets go of the caller's terminal and pipes.
void redirect_to(const std::filesystem::path& file) {
  const Fd input(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const Fd output(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666));
  if (output.get() < 0) throw std::system_error(errno, std::generic_category(), file.string());
  dup2(input.get(), STDIN_FILENO);
  dup2(output.get(), STDOUT_FILENO);
  dup2(output.get(), STDERR_FILENO);
}

// Keeps the signals that stop a job from this thread.
class HoldSignals {
 public:
  HoldSignals() {
    sigset_t held;
    sigemptyset(&held);
    for (const int signal : kStopSignals) sigaddset(&held, signal);
    sigprocmask(SIG_BLOCK, &held, &before_);
  }
  ~HoldSignals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  HoldSignals(const HoldSignals&) = delete;
  HoldSignals& operator=(const HoldSignals&) = delete;
  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_{};
};

// A signal that the caller had ignored (nohup) stays so.
void hand_on_signals() {
  struct sigaction action {};
  action.sa_handler = hand_on;
  action.sa_flags = SA_RESTART;
  for (const int signal : kStopSignals) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

// The supervisor as its parent has it: a process and what it says.
class SupervisorProcess {
 public:
  /// `job_log` says that it lives on in the background: then its words after the start go there.
  SupervisorProcess(const JobPlan& plan, const std::optional<std::filesystem::path>& job_log) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe2");
    words_ = Fd(ends[0]);
    Fd mouth(ends[1]);
    const HoldSignals hold;
    const pid_t front = getpid();
    pid_ = fork();
    if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (pid_ == 0) _exit(live(plan, job_log, front, hold.before(), std::move(mouth)));
    supervisor_pid = pid_;
    hand_on_signals();
  }

  /// Where it was not waited for and does not live on by itself, the job is ended.
  ~SupervisorProcess() {
    if (pid_ <= 0) return;
    kill(pid_, SIGTERM);
    wait();
  }

  SupervisorProcess(const SupervisorProcess&) = delete;
  SupervisorProcess& operator=(const SupervisorProcess&) = delete;

  int words_fd() const { return words_.get(); }

  /// Reads what it says. False: it has ended, or lives on by itself.
  bool listen() {
    std::array<char, 4096> chunk{};
    const ssize_t size = read(words_.get(), chunk.data(), chunk.size());
    if (size > 0) said_.append(chunk.data(), static_cast<std::size_t>(size));
    return size > 0 || (size < 0 && errno == EINTR);
  }
  bool started() const { return said_.starts_with(kStarted) && said_.find('\n') != std::string::npos; }
  int first_rank() const { return std::atoi(said_.c_str() + 1); }
  std::string_view said() const {
    return std::string_view(said_).substr(started() ? said_.find('\n') + 1 : 0);
  }

  /// Waits for its end and returns its exit code. Where it was killed, its workers are killed too.
  int wait() {
    const HoldSignals hold;  // nothing is handed on to a process that may be gone
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
    supervisor_pid = pid_ = 0;
    if (WIFSIGNALED(status)) {
      kill_descendants(kKillTime);
      said_ += fmt::format("syncbn-run: the supervisor of the job was {}; the job was ended\n",
                           describe_end(status));
    }
    return exit_code(status);
  }
  pid_t leave() { return std::exchange(pid_, 0); }

 private:
  static int live(const JobPlan& plan, const std::optional<std::filesystem::path>& job_log, pid_t front,
                  const sigset_t& worker_mask, Fd mouth) {
    setsid();
    if (!job_log) prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (!job_log && getppid() != front) return kCannotStart;  // it died before the line above
    int ear = mouth.get();
    const auto started = [&](const std::vector<int>& ranks) {
      if (job_log) redirect_to(*job_log);  // first, as it may fail
      write_all(mouth.get(), fmt::format("{}{}\n", kStarted, ranks[0]));
      if (!job_log) return;
      ear = STDERR_FILENO;
      mouth = Fd();
    };
    const auto tell = [&](const std::string& text) {
      write_all(ear, job_log && text.empty() ? "syncbn-run: all workers exited with 0\n" : text);
    };
    return supervise(plan, worker_mask, {{}, started, tell});
  }

  Fd words_;
  pid_t pid_ = 0;
  std::string said_;
};

}  // namespace

int run_in_front(const JobPlan& plan, const std::vector<int>& shown) {
  become_subreaper();
  SupervisorProcess supervisor(plan, std::nullopt);
  LogFollower logs;
  bool following = false;
  LogFollower::News news;
  const auto show_news = [&] {
    news = logs.read();
    write_all(STDOUT_FILENO, news.lines);
  };
  for (bool alive = true; alive;) {
    std::array<pollfd, 2> wake = {pollfd{supervisor.words_fd(), POLLIN, 0},
                                  pollfd{logs.wake_fd(), POLLIN, 0}};
    if (poll(wake.data(), wake.size(), news.more ? 0 : -1) < 0) continue;  // a signal was handed on
    if (wake[0].revents != 0) alive = supervisor.listen();
    if (supervisor.started() && !following) {
      for (const WorkerPlan& worker : plan_workers(plan, {0, 1, supervisor.first_rank()}))
        if (std::find(shown.begin(), shown.end(), worker.rank) != shown.end())
          logs.add(worker.log, fmt::format("[{}] ", worker.rank));
      following = true;
      write_all(STDERR_FILENO, fmt::format("syncbn-run: started {} workers; logs: {}\n",
                                           plan.options.local_worker_num, plan.log_names));
    }
    show_news();
  }
  const int code = supervisor.wait();
  do show_news();
  while (news.more);
  write_all(STDOUT_FILENO, logs.flush());
  write_all(STDERR_FILENO, supervisor.said());
  return code;
}

int run_in_background(const JobPlan& plan) {
  SupervisorProcess supervisor(plan, plan.job_log);
  while (supervisor.listen()) continue;
  if (!supervisor.started()) {
    const int code = supervisor.wait();
    write_all(STDERR_FILENO, supervisor.said());
    return code;
  }
  write_all(STDERR_FILENO, fmt::format("syncbn-run: started {} workers in the background; logs: {}\n"
                                       "syncbn-run: 'kill {}' ends the job; how it ended will be in {}\n",
                                       plan.options.local_worker_num, plan.log_names, supervisor.leave(),
                                       plan.job_log.string()));
  return kSuccess;
}

}  // namespace syncbn::launch
