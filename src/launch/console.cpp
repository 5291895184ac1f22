// SPDX-License-Identifier: Apache-2.0
#include "launch/console.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

namespace syncbn::launch {
namespace {

constexpr std::string_view kEraseLine = "\r\x1b[K";
constexpr std::size_t kDefaultWidth = 80;

bool can_erase() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) != 0 && term != nullptr && *term != '\0' && std::string_view(term) != "dumb";
}

// True if another job of the shell has the terminal. The status line must not overwrite its output.
bool in_background() {
  const pid_t foreground = tcgetpgrp(STDERR_FILENO);
  return foreground > 0 && foreground != getpgrp();
}

std::size_t width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kDefaultWidth;
}

}  // namespace

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = write(fd, text.data(), text.size());
    if (size > 0) {
      text.remove_prefix(static_cast<std::size_t>(size));
    } else if (errno == EAGAIN) {
      pollfd ready{fd, POLLOUT, 0};
      poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return;
    }
  }
}

Console::Console() : has_status_(can_erase()) {}

Console::~Console() { erase(); }

void Console::out(std::string_view lines) { write(STDOUT_FILENO, lines); }

void Console::err(std::string_view lines) { write(STDERR_FILENO, lines); }

void Console::set_status(std::string text) {
  if (!has_status_ || text == status_) return;
  status_ = std::move(text);
  erase();
  draw();
}

void Console::write(int fd, std::string_view lines) {
  if (lines.empty()) return;
  erase();
  write_all(fd, lines);
  draw();
}

void Console::erase() {
  if (drawn_ && !in_background()) write_all(STDERR_FILENO, kEraseLine);
  drawn_ = false;
}

void Console::draw() {
  if (status_.empty() || in_background()) return;
  // The last column stays free: a line that fills it moves the cursor to the next line on some terminals.
  write_all(STDERR_FILENO, std::string_view(status_).substr(0, width() - 1));
  drawn_ = true;
}

}  // namespace syncbn::launch
