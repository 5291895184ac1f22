// SPDX-License-Identifier: Apache-2.0
#include "launch/supervisor_process.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <utility>
#include <variant>

#include "base/throw_errno.h"
#include "launch/console.h"
#include "launch/exit_codes.h"
#include "launch/process.h"
#include "launch/signals.h"
#include "launch/status_text.h"
#include "launch/supervisor.h"

// There are two processes, so that each can end the job if the other is lost. The supervisor has its own
// session and never writes to the console, which may be stopped (Ctrl-S, a pager). When the parent dies, even
// by SIGKILL, the supervisor gets SIGTERM. When the supervisor is killed, its children become children of the
// parent.
namespace syncbn::launch {
namespace {

volatile std::sig_atomic_t supervisor_pid = 0;

void forward_signal(int signal) {
  if (supervisor_pid > 0) kill(supervisor_pid, signal);
}

// A signal that the caller had ignored (nohup) stays ignored.
void forward_stop_signals() {
  struct sigaction action {};
  action.sa_handler = forward_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : kStopSignals) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

// Blocks the stop signals in this thread for its lifetime.
class BlockStopSignals {
 public:
  BlockStopSignals() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : kStopSignals) sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, &before_);
  }
  ~BlockStopSignals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  BlockStopSignals(const BlockStopSignals&) = delete;
  BlockStopSignals& operator=(const BlockStopSignals&) = delete;
  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_{};
};

// Standard input becomes empty, standard output and error go to `file`: the caller's terminal and pipes are
// released.
void redirect_to(const std::filesystem::path& file) {
  const base::Fd input(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const base::Fd output(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666));
  if (output.get() < 0) base::throw_errno(file.string());
  dup2(input.get(), STDIN_FILENO);
  dup2(output.get(), STDOUT_FILENO);
  dup2(output.get(), STDERR_FILENO);
}

// Sends everything to the parent, which shows it.
void send_to_parent(int socket, const Status& status, const std::string& text) {
  if (std::holds_alternative<Report>(status)) return send_report(socket, text);
  // A parent whose console is stopped must not block the job. The next message has the complete progress
  // again.
  if (std::holds_alternative<Progress>(status) || std::holds_alternative<Notice>(status))
    return send_if_room(socket, status, text);
  send_status(socket, status);
}

// Reports to the parent until the workers run, then to the job's log.
class BackgroundReport {
 public:
  BackgroundReport(const JobPlan& plan, base::Fd socket) : plan_(plan), socket_(std::move(socket)) {}

  void add(const Status& status, const std::string& text) {
    const auto* started = std::get_if<Started>(&status);
    // The other nodes' launchers may be started after this one's caller has returned.
    if (started != nullptr || (std::holds_alternative<Progress>(status) && plan_.several_nodes())) detach();
    if (started != nullptr && plan_.several_nodes())
      return write(fmt::format("syncbn-run: {}\n", started_text(plan_, started->placement)));
    write(text);
  }

 private:
  void write(const std::string& lines) {
    if (detached_)
      write_all(STDERR_FILENO, lines);
    else
      send_report(socket_.get(), lines);
  }
  void detach() {
    if (detached_) return;
    redirect_to(plan_.job_log);  // first, as it may fail
    send_status(socket_.get(), Detached{});
    socket_ = base::Fd();
    detached_ = true;
  }

  const JobPlan& plan_;
  base::Fd socket_;
  bool detached_ = false;
};

int run_supervisor(const JobPlan& plan, SupervisorProcess::Mode mode, pid_t parent,
                   const sigset_t& worker_mask, base::Fd socket) {
  setsid();
  if (mode == SupervisorProcess::Mode::background) {
    BackgroundReport report(plan, std::move(socket));
    return supervise(plan, worker_mask,
                     [&](const Status& status, const std::string& text) { report.add(status, text); });
  }
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) return kCannotStart;  // the parent died before prctl()
  return supervise(plan, worker_mask, [&](const Status& status, const std::string& text) {
    send_to_parent(socket.get(), status, text);
  });
}

}  // namespace

SupervisorProcess::SupervisorProcess(const JobPlan& plan, Mode mode) {
  auto [receiver, sender] = status_socket();
  const BlockStopSignals block_signals;
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) base::throw_errno("fork");
  if (pid_ == 0) {
    receiver = base::Fd();
    _exit(run_supervisor(plan, mode, parent, block_signals.before(), std::move(sender)));
  }
  socket_ = std::move(receiver);
  supervisor_pid = pid_;
  forward_stop_signals();
}

SupervisorProcess::~SupervisorProcess() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  wait();
}

SupervisorProcess::Exit SupervisorProcess::wait() {
  const BlockStopSignals block_signals;  // nothing is forwarded to a process that may have ended
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  supervisor_pid = pid_ = 0;
  if (!WIFSIGNALED(status)) return {exit_code(status), ""};
  kill_descendants(kKillTime);
  return {exit_code(status), fmt::format("syncbn-run: the supervisor of the job was {}; the job was ended\n",
                                         describe_end(status))};
}

pid_t SupervisorProcess::detach() { return std::exchange(pid_, 0); }

}  // namespace syncbn::launch
