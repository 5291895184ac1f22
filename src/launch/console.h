#pragma once

#include <string>
#include <string_view>

namespace syncbn::launch {

/// Writes all of it, also where another program that shares the file has made it non-blocking; gives up where
/// nobody is left to read it.
void write_all(int fd, std::string_view text);

/// Standard output and standard error, and on a terminal a status line below what they show.
class Console {
 public:
  Console();
  ~Console();  ///< The status line is gone.
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  /// Whether standard error is a terminal that can take a line back.
  bool has_status() const { return has_status_; }
  /// Whole lines. The status line makes way for them.
  void out(std::string_view lines);
  void err(std::string_view lines);
  /// Shows `text`, as much as fits into the terminal's width, in the place of the line before; "": none.
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
