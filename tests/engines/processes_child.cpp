// SPDX-License-Identifier: Apache-2.0
#include "processes_child.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>

#include "../outcome.h"

extern char** environ;

namespace syncbn::processes {
namespace {

using Clock = std::chrono::steady_clock;

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }  // between two looks at a process

bool of_a_launcher(std::string_view variable) {
  const std::string_view prefixes[] = {"SYNCBN_",   "RANK",      "WORLD_SIZE",   "LOCAL_", "MASTER_",
                                       "MS_",       "OMPI_",     "PMIX_",        "PMI_",   "SLURM_",
                                       "DEVICE_ID", "MPI_LOCAL", "TORCHELASTIC_"};
  return std::any_of(std::begin(prefixes), std::end(prefixes),
                     [&](std::string_view prefix) { return variable.starts_with(prefix); });
}

std::vector<std::string> environment(const Variables& variables) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!of_a_launcher(*entry)) result.emplace_back(*entry);
  }
  for (const auto& [name, value] : variables) result.push_back(name + "=" + value);
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

Child::Child(const std::vector<std::string>& command, const Variables& variables) {
  output_ = memfd_create("output", MFD_CLOEXEC);  // a file, so that nobody has to read for the child to go on
  int input[2] = {-1, -1};
  if (output_ < 0 || fcntl(output_, F_SETFL, O_APPEND) != 0 || pipe2(input, O_CLOEXEC) != 0)
    throw std::runtime_error(std::strerror(errno));
  input_ = input[1];
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output_, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output_, STDERR_FILENO);
  std::vector<std::string> arguments = command;
  std::vector<std::string> texts = environment(variables);
  texts.push_back(fmt::format("TEST_OUTPUT=/proc/{}/fd/{}", getpid(), output_));
  const int error = posix_spawnp(&pid_, command[0].c_str(), &actions, nullptr, pointers(arguments).data(),
                                 pointers(texts).data());
  posix_spawn_file_actions_destroy(&actions);
  close(input[0]);
  if (error != 0) throw std::runtime_error(fmt::format("{}: {}", command[0], std::strerror(error)));
}

Child::~Child() {
  close_input();
  if (!has_ended()) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(output_);
}

void Child::signal(int number) const {
  if (end_.empty()) kill(pid_, number);
}

void Child::close_input() {
  if (input_ >= 0) close(std::exchange(input_, -1));
}

bool Child::has_ended() {
  int status = 0;
  if (end_.empty() && waitpid(pid_, &status, WNOHANG) == pid_)
    end_ = WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status))
                               : fmt::format("exit {}", WEXITSTATUS(status));
  return !end_.empty();
}

std::string Child::wait() {
  const auto deadline = Clock::now() + kPatience;
  while (!has_ended()) {
    if (Clock::now() >= deadline) return "still runs";
    pause();
  }
  return end_;
}

bool Child::shows(const std::string& fact) {
  const auto deadline = Clock::now() + kPatience;
  for (;;) {
    const bool last_look = has_ended() || Clock::now() >= deadline;
    if (syncbn::testing::tells(output(), fact)) return true;
    if (last_look) return false;
    pause();
  }
}

std::string Child::output() const {
  struct stat file {};
  fstat(output_, &file);
  std::string text(static_cast<std::size_t>(file.st_size), '\0');
  const ssize_t size = pread(output_, text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  return text;
}

std::vector<int> free_ports(std::size_t count) {
  std::vector<int> sockets;
  std::vector<int> ports;
  for (std::size_t i = 0; i < count; ++i) {
    sockets.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(sockets.back(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        getsockname(sockets.back(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
      throw std::runtime_error(std::strerror(errno));
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int fd : sockets) close(fd);
  return ports;
}

bool is_gone(pid_t pid) {
  const auto deadline = Clock::now() + kPatience;
  for (;;) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    const std::string stat(std::istreambuf_iterator<char>(file), {});
    const auto name_end = stat.rfind(')');  // "17 (name) S …"
    if (name_end == std::string::npos || stat.substr(name_end, 3) == ") Z") return true;
    if (Clock::now() >= deadline) return false;
    pause();
  }
}

}  // namespace syncbn::processes
