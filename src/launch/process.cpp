// SPDX-License-Identifier: Apache-2.0
#include "launch/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string_view>
#include <thread>

#include "base/file_descriptor.h"
#include "base/throw_errno.h"
#include "launch/cores.h"
#include "launch/exit_codes.h"

namespace syncbn::launch {
namespace {

using base::Fd;
using std::chrono::steady_clock;

constexpr int kCannotExecute = 126;  // as in a shell
constexpr int kNotFound = 127;

base::Fd open_or_throw(const std::string& path, int flags) {
  base::Fd file(open(path.c_str(), flags | O_CLOEXEC, 0666));
  if (file.get() < 0) base::throw_errno(path);
  return file;
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (const std::string& text : texts)
    result.push_back(const_cast<char*>(text.c_str()));  // execve's signature
  result.push_back(nullptr);
  return result;
}

// For a forked child before execve(). The parent may have had threads, so nothing here may take a lock.
void write_stderr(std::string_view text) {
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(kCannotExecute);
}

[[noreturn]] void exec_worker(const char* file, char* const* arguments, char* const* environment, int input,
                              int log, const sigset_t& signal_mask, pid_t parent) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kSignalBase + SIGKILL);  // the parent died before prctl()
  dup2(input, STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_DFL);
  sigprocmask(SIG_SETMASK, &signal_mask, nullptr);
  execve(file, arguments, environment);
  const int error = errno;
  write_stderr("syncbn-run: can't execute ");
  write_stderr(file);
  write_stderr(": ");
  write_stderr(strerrordesc_np(error));
  write_stderr("\n");
  _exit(error == ENOENT ? kNotFound : kCannotExecute);
}

// The parent's id of a process, or -1 if the process is gone. In /proc/PID/stat it is the second field after
// the last
// ')', which ends the name.
pid_t parent_of(const char* pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string stat;
  std::getline(file, stat);
  const std::size_t name_end = stat.rfind(')');
  char state = 0;
  pid_t parent = -1;
  if (name_end == std::string::npos ||
      std::sscanf(stat.c_str() + name_end + 1, " %c %d", &state, &parent) != 2)
    return -1;
  return parent;
}

}  // namespace

void become_subreaper() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) base::throw_errno("prctl");
}

pid_t start_worker(const Command& command, const WorkerPlan& worker, const sigset_t& signal_mask) {
  const base::Fd input = open_or_throw("/dev/null", O_RDONLY);
  const base::Fd log = open_or_throw(worker.log.string(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
  const std::vector<char*> arguments = pointers(command.arguments);
  const std::vector<char*> environment = pointers(worker.environment);
  const pid_t parent = getpid();
  const ScopedAffinity affinity(worker.cores);  // the child inherits them
  const pid_t pid = fork();
  if (pid == 0)
    exec_worker(command.file.c_str(), arguments.data(), environment.data(), input.get(), log.get(),
                signal_mask, parent);
  if (pid < 0) base::throw_errno(fmt::format("fork of worker {}", worker.rank));
  return pid;
}

std::vector<pid_t> children() {
  // /proc/self/task/*/children is not used: some kernels lack it, and it may miss processes while others end.
  std::vector<pid_t> result;
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(opendir("/proc"), closedir);
  if (proc == nullptr) base::throw_errno("/proc");
  while (const dirent* entry = readdir(proc.get())) {
    const char* name = entry->d_name;
    if (name[0] >= '1' && name[0] <= '9' && parent_of(name) == getpid()) result.push_back(std::atoi(name));
  }
  return result;
}

bool kill_descendants(std::chrono::milliseconds time) {
  // Only children are killed. The system can't give their ids to other processes until this process has
  // waited for them. Grandchildren become children and are killed in the next round.
  const auto deadline = steady_clock::now() + time;
  for (;;) {
    for (const pid_t child : children()) kill(child, SIGKILL);
    pid_t reaped = 0;
    while ((reaped = waitpid(-1, nullptr, WNOHANG)) > 0) continue;
    if (reaped < 0) return true;
    if (steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

int exit_code(int status) {
  return WIFSIGNALED(status) ? kSignalBase + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string signal_name(int signal) {
  const char* name = sigabbrev_np(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("SIGRTMIN+{}", signal - SIGRTMIN);
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), signal_name(WTERMSIG(status)));
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

}  // namespace syncbn::launch
