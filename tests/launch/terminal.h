// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>

#include "job.h"

namespace syncbn::launch {

/// What a terminal of `width` columns shows of what was written to it: the rows since its start.
class Screen {
 public:
  explicit Screen(std::size_t width) : width_(width) {}
  void write(const std::string& bytes);
  const Strings& rows() const { return rows_; }

 private:
  void put(char c);

  std::size_t width_;
  Strings rows_ = {""};
  std::size_t column_ = 0;
  std::string escape_;  // begun
};

/// One run of syncbn-run whose standard input, output and error are a pseudo-terminal of its own.
class TerminalJob {
 public:
  TerminalJob(const Strings& command, const Variables& environment, int width);
  ~TerminalJob();  ///< Ends it.
  TerminalJob(const TerminalJob&) = delete;
  TerminalJob& operator=(const TerminalJob&) = delete;

  /// Types it.
  void type(const std::string& keys) const;
  /// Waits until the last row is `text`.
  bool bottom_becomes(const std::string& text);
  /// Waits for its end: the exit code, or -N where it was killed by signal N, or -1000 after kPatience.
  int wait();
  const Screen& screen() const { return screen_; }
  /// All that was written, as it came.
  const std::string& bytes() const { return bytes_; }

 private:
  void read();

  int master_ = -1;
  pid_t pid_ = 0;
  Screen screen_;
  std::string bytes_;
};

}  // namespace syncbn::launch
