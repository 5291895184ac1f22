// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace syncbn::launch {

/// Writes all of `text`, even if another program that shares the file has made it non-blocking. Gives up if
/// the reader is gone.
void write_all(int fd, std::string_view text);

/// Standard output and standard error. On a terminal there is a status line below their lines.
class Console {
 public:
  Console();
  ~Console();  ///< Erases the status line.
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  /// True if standard error is a terminal that can erase a line.
  bool has_status() const { return has_status_; }
  /// Both write whole lines above the status line.
  void out(std::string_view lines);
  void err(std::string_view lines);
  /// Replaces the status line by as much of `text` as fits into the terminal's width; "" removes it.
  void set_status(std::string text);

 private:
  void write(int fd, std::string_view lines);
  void erase();
  void draw();

  bool has_status_;
  std::string status_;
  bool drawn_ = false;
};

}  // namespace syncbn::launch
