// SPDX-License-Identifier: Apache-2.0
#include "terminal.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>

namespace syncbn::launch {

void Screen::write(const std::string& bytes) {
  for (const char c : bytes) put(c);
}

void Screen::put(char c) {
  if (!escape_.empty() || c == '\x1b') {
    escape_ += c;
    if (escape_ == "\x1b[K") rows_.back().erase(std::min(column_, rows_.back().size()));
    if (escape_.size() == 3) escape_.clear();
    return;
  }
  if (c == '\r') {
    column_ = 0;
    return;
  }
  if (c == '\n' || column_ == width_) {
    rows_.emplace_back();
    column_ = 0;
  }
  if (c == '\n') return;
  std::string& row = rows_.back();
  if (row.size() <= column_) row.resize(column_ + 1, ' ');
  row[column_++] = c;
}

TerminalJob::TerminalJob(const Strings& command, const Variables& environment, int width)
    : screen_(static_cast<std::size_t>(width)) {
  Strings arguments = command;
  Strings variables = environment_with(environment);
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(variables);
  winsize size{};
  size.ws_row = 24;
  size.ws_col = static_cast<unsigned short>(width);
  pid_ = forkpty(&master_, nullptr, nullptr, &size);
  if (pid_ < 0) throw std::runtime_error("forkpty");
  if (pid_ == 0) {
    execve(argv[0], argv.data(), envp.data());
    _exit(99);
  }
  fcntl(master_, F_SETFL, O_NONBLOCK);
}

TerminalJob::~TerminalJob() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    wait();
  }
  close(master_);
}

void TerminalJob::type(const std::string& keys) const {
  if (::write(master_, keys.data(), keys.size()) < 0) throw std::runtime_error("write to the terminal");
}

void TerminalJob::read() {
  std::array<char, 4096> chunk{};
  for (ssize_t size = 0; (size = ::read(master_, chunk.data(), chunk.size())) > 0;) {
    const std::string bytes(chunk.data(), static_cast<std::size_t>(size));
    bytes_ += bytes;
    screen_.write(bytes);
  }
}

bool TerminalJob::bottom_becomes(const std::string& text) {
  return wait_until([&] {
    read();
    return screen_.rows().back() == text;
  });
}

int TerminalJob::wait() {
  int status = 0;
  if (!wait_until([&] {
        read();
        return waitpid(pid_, &status, WNOHANG) == pid_;
      })) {
    kill(pid_, SIGKILL);
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return -1000;
  }
  read();
  pid_ = 0;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace syncbn::launch
