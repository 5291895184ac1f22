#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file_descriptor.h"

namespace syncbn::launch {

/// The last `count` lines of a file, without their line ends; fewer where there are fewer, or where they are
/// very long.
std::vector<std::string> last_lines(const std::filesystem::path& file, std::size_t count);

/// Follows files that others write, by inotify, and gives what is new in whole lines with a prefix before
/// each.
class LogFollower {
 public:
  /// @throws std::system_error
  LogFollower();
  /// From the file's beginning. @throws std::system_error
  void add(const std::filesystem::path& file, std::string prefix);

  /// For poll(): readable when a file has grown.
  int wake_fd() const { return inotify_.get(); }
  /// The whole lines written since the last call, and whether there are more, which no event will tell.
  struct News {
    std::string lines;
    bool more = false;
  };
  News read();
  /// The last lines that have no line end, with one. To be called when nobody writes any more and all has
  /// been read.
  std::string flush();

 private:
  struct File {
    base::Fd fd;
    std::string prefix;
    std::string line;  // begun, its end is not yet written
  };
  bool read_chunk(File& file, std::string& lines);

  base::Fd inotify_;
  std::vector<File> files_;
};

}  // namespace syncbn::launch
