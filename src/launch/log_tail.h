// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file_descriptor.h"

namespace syncbn::launch {

/// The last `count` lines of a file, without their line ends. Fewer if the file has fewer, or if the lines
/// are very long.
std::vector<std::string> last_lines(const std::filesystem::path& file, std::size_t count);

/// True if the last lines of a log tell of an error because of a peer: a PeerError that nothing caught, or an
/// error of Gloo.
bool ends_with_peer_error(const std::filesystem::path& log);

/// True if the last lines of a log tell of an exception of Python or C++. The process may be ending, or has
/// caught the exception and goes on.
bool ends_with_exception(const std::filesystem::path& log);

/// Follows growing files with inotify. Returns new lines whole, each with a prefix.
class LogFollower {
 public:
  /// @throws std::system_error
  LogFollower();
  /// Follows `file` from its beginning. @throws std::system_error
  void add(const std::filesystem::path& file, std::string prefix);

  /// For poll(): readable when a file has grown.
  int wake_fd() const { return inotify_.get(); }
  struct NewLines {
    std::string lines;
    bool more = false;  ///< There are more to read now. wake_fd() may not become readable for them.
  };
  NewLines read();  ///< The whole lines since the last call.
  /// The unfinished last lines, with a line end each. For the time when the writers have ended and all was
  /// read.
  std::string flush();

 private:
  struct File {
    base::Fd fd;
    std::string prefix;
    std::string line;  // its end is not written yet
  };
  bool read_chunk(File& file, std::string& lines);

  base::Fd inotify_;
  std::vector<File> files_;
};

}  // namespace syncbn::launch
