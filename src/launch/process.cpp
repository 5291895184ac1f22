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
#include <system_error>
#include <thread>

#include "launch/cores.h"
#include "launch/exit_codes.h"
#include "base/file_descriptor.h"

namespace syncbn::launch {
namespace {

using base::Fd;
using std::chrono::steady_clock;

constexpr int kCannotExecute = 126;  // as a shell has it
constexpr int kNotFound = 127;

base::Fd open_or_throw(const std::string& path, int flags) {
  base::Fd file(open(path.c_str(), flags | O_CLOEXEC, 0666));
  if (file.get() < 0) throw std::system_error(errno, std::generic_category(), path);
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

// Only in a fresh child, and before it execs: the parent may have had threads, so nothing here may take a
// lock.
void say(std::string_view text) {
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(kCannotExecute);
}

[[noreturn]] void become_worker(const char* file, char* const* arguments, char* const* environment, int input,
                                int log, const sigset_t& signal_mask, pid_t parent) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kSignalBase + SIGKILL);  // it died before the line above
  dup2(input, STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_DFL);
  sigprocmask(SIG_SETMASK, &signal_mask, nullptr);
  execve(file, arguments, environment);
  const int error = errno;
  say("syncbn-run: can't execute ");
  say(file);
  say(": ");
  say(strerrordesc_np(error));
  say("\n");
  _exit(error == ENOENT ? kNotFound : kCannotExecute);
}

// The parent's id of a process, or -1 where it is gone: the second field after the name's last ')'.
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
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) throw std::system_error(errno, std::generic_category(), "prctl");
}

pid_t start_worker(const Command& command, const WorkerPlan& worker, const sigset_t& signal_mask) {
  const base::Fd input = open_or_throw("/dev/null", O_RDONLY);
  const base::Fd log = open_or_throw(worker.log.string(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
  const std::vector<char*> arguments = pointers(command.arguments);
  const std::vector<char*> environment = pointers(worker.environment);
  const pid_t parent = getpid();
  const OnCores cores(worker.cores);  // the child inherits them
  const pid_t pid = fork();
  if (pid == 0)
    become_worker(command.file.c_str(), arguments.data(), environment.data(), input.get(), log.get(),
                  signal_mask, parent);
  if (pid < 0)
    throw std::system_error(errno, std::generic_category(), fmt::format("fork of worker {}", worker.rank));
  return pid;
}

std::vector<pid_t> children() {
  // Not /proc/self/task/*/children: kernels may lack it, and it may miss some while others end.
  std::vector<pid_t> result;
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(opendir("/proc"), closedir);
  if (proc == nullptr) throw std::system_error(errno, std::generic_category(), "/proc");
  while (const dirent* entry = readdir(proc.get())) {
    const char* name = entry->d_name;
    if (name[0] >= '1' && name[0] <= '9' && parent_of(name) == getpid()) result.push_back(std::atoi(name));
  }
  return result;
}

bool kill_descendants(std::chrono::milliseconds time) {
  // Only children are ever killed: their ids can't be taken by a stranger, because nobody but this process
  // waits for them. Grandchildren become children by it and are killed in the next round.
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
