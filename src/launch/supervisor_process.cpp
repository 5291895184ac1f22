#include "launch/supervisor_process.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/console.h"
#include "launch/exit_codes.h"
#include "launch/process.h"
#include "launch/status_text.h"
#include "launch/supervisor.h"

// Two processes, so that neither can be lost without the other ending the job. The supervisor has a session
// of its own and never writes to the console, which may be stopped (Ctrl-S, a pager). Where the front dies,
// even by SIGKILL, the supervisor gets SIGTERM; where the supervisor is killed, the front inherits what it
// looked after.
namespace syncbn::launch {
namespace {

using base::Fd;

constexpr std::chrono::milliseconds kKillTime{5000};
constexpr std::array kStopSignals = {SIGINT, SIGTERM, SIGHUP};

volatile std::sig_atomic_t supervisor_pid = 0;

void hand_on(int signal) {
  if (supervisor_pid > 0) kill(supervisor_pid, signal);
}

// Lets go of the caller's terminal and pipes.
void redirect_to(const std::filesystem::path& file) {
  const base::Fd input(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const base::Fd output(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666));
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

// What the supervisor has to say, until it lets go of the console to the process in front.
class ToFront {
 public:
  explicit ToFront(base::Fd mouth) : mouth_(std::move(mouth)) { fcntl(mouth_.get(), F_SETFL, O_NONBLOCK); }
  void say(const Word& word) const { write_all(mouth_.get(), encode(word)); }
  // A front whose console is stopped does not hold up the job: what it has no room for is dropped, and the
  // next one tells all of it anew. A message so short is written whole or not at all.
  void say_if_it_fits(const Progress& progress) const {
    const std::string message = encode(progress);
    if (write(mouth_.get(), message.data(), message.size()) < 0) return;
  }
  void hang_up() { mouth_ = base::Fd(); }

 private:
  base::Fd mouth_;
};

// A supervisor says nothing at the end of a job that went well.
std::string end_text(const std::string& text) {
  return text.empty() ? "syncbn-run: all workers exited with 0\n" : text;
}

Audience front_audience(const ToFront& front) {
  return {[&front](const Progress& progress) { front.say_if_it_fits(progress); },
          [&front](const std::vector<int>& ranks) { front.say(Started{ranks}); },
          [&front](int restart, const std::string& text) {
            front.say(Restarting{restart, text});
          },
          [&front](const std::string& text) { front.say(Said{end_text(text)}); }};
}

// A job that lives on in the background: its words go to the front until it stands, then to its log.
class BackgroundAudience {
 public:
  BackgroundAudience(const JobPlan& plan, ToFront& front) : plan_(plan), front_(front) {}
  Audience audience() {
    return {[this](const Progress&) {
              // The other nodes' launchers may be started when this one's caller has returned.
              if (plan_.several_nodes()) let_go();
            },
            [this](const std::vector<int>& ranks) {
              let_go();
              if (plan_.several_nodes()) tell(fmt::format("syncbn-run: {}\n", started_text(plan_, ranks)));
            },
            [this](int, const std::string& text) { tell(text); },
            [this](const std::string& text) { tell(end_text(text)); }};
  }

 private:
  void let_go() {
    if (alone_) return;
    redirect_to(plan_.job_log);  // first, as it may fail
    front_.say(LetGo{});
    front_.hang_up();
    alone_ = true;
  }
  void tell(const std::string& text) const {
    if (alone_)
      write_all(STDERR_FILENO, text);
    else
      front_.say(Said{text});
  }

  const JobPlan& plan_;
  ToFront& front_;
  bool alone_ = false;
};

int live(const JobPlan& plan, SupervisorProcess::Place place, pid_t parent, const sigset_t& worker_mask,
         base::Fd mouth) {
  setsid();
  ToFront front(std::move(mouth));
  if (place == SupervisorProcess::Place::background) {
    BackgroundAudience listener(plan, front);
    return supervise(plan, worker_mask, listener.audience());
  }
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) return kCannotStart;  // it died before the line above
  return supervise(plan, worker_mask, front_audience(front));
}

}  // namespace

SupervisorProcess::SupervisorProcess(const JobPlan& plan, Place place) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe2");
  ear_ = base::Fd(ends[0]);
  base::Fd mouth(ends[1]);
  const HoldSignals hold;
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (pid_ == 0) _exit(live(plan, place, parent, hold.before(), std::move(mouth)));
  supervisor_pid = pid_;
  hand_on_signals();
}

SupervisorProcess::~SupervisorProcess() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  wait();
}

bool SupervisorProcess::listen() {
  std::array<char, 4096> chunk{};
  const ssize_t size = read(ear_.get(), chunk.data(), chunk.size());
  if (size > 0) words_.append({chunk.data(), static_cast<std::size_t>(size)});
  return size > 0 || (size < 0 && errno == EINTR);
}

SupervisorProcess::End SupervisorProcess::wait() {
  const HoldSignals hold;  // nothing is handed on to a process that may be gone
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  supervisor_pid = pid_ = 0;
  if (!WIFSIGNALED(status)) return {exit_code(status), ""};
  kill_descendants(kKillTime);
  return {exit_code(status), fmt::format("syncbn-run: the supervisor of the job was {}; the job was ended\n",
                                         describe_end(status))};
}

pid_t SupervisorProcess::leave() { return std::exchange(pid_, 0); }

}  // namespace syncbn::launch
