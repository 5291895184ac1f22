// SPDX-License-Identifier: Apache-2.0
#include "launch/log_tail.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "base/throw_errno.h"

namespace syncbn::launch {
namespace {

constexpr std::size_t kChunk = 65536;
constexpr std::size_t kLongestLine = 65536;  // longer ones are shown in pieces, so that memory stays bounded
constexpr std::streamoff kTailBytes = 16384;

bool contains_any(const std::vector<std::string>& lines, std::initializer_list<std::string_view> marks) {
  return std::any_of(lines.begin(), lines.end(), [marks](const std::string& line) {
    return std::any_of(marks.begin(), marks.end(),
                       [&line](std::string_view mark) { return line.find(mark) != std::string::npos; });
  });
}

}  // namespace

std::vector<std::string> last_lines(const std::filesystem::path& file, std::size_t count) {
  std::ifstream input(file, std::ios::binary | std::ios::ate);
  if (!input) return {};
  const std::streamoff size = input.tellg();
  input.seekg(std::max<std::streamoff>(0, size - kTailBytes));
  std::vector<std::string> lines;
  for (std::string line; std::getline(input, line);) lines.push_back(line);
  if (lines.size() > count) lines.erase(lines.begin(), lines.end() - static_cast<std::ptrdiff_t>(count));
  return lines;
}

bool ends_with_peer_error(const std::filesystem::path& log) {
  constexpr std::size_t kLines = 20;  // frameworks may print warnings after the exception
  return contains_any(
      last_lines(log, kLines),
      {
          "PeerError: ",         // "syncbn.PeerError: group 'world', call 2, forward: …"
          "syncbn::PeerError'",  // "terminate called after throwing an instance of 'syncbn::PeerError'"
          "Connection closed by peer",  // Gloo, in PyTorch's own sums
      });
}

bool ends_with_exception(const std::filesystem::path& log) {
  constexpr std::size_t kLines = 100;  // the first line of a traceback stands far above its end
  return contains_any(last_lines(log, kLines), {"Traceback (most recent call last)", "terminate called"});
}

LogFollower::LogFollower() : inotify_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
  if (inotify_.get() < 0) base::throw_errno("inotify_init1");
}

void LogFollower::add(const std::filesystem::path& file, std::string prefix) {
  // The watch comes first, so that text written between the two calls raises an event.
  if (inotify_add_watch(inotify_.get(), file.c_str(), IN_MODIFY) < 0)
    base::throw_errno("watching " + file.string());
  base::Fd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) base::throw_errno(file.string());
  files_.push_back({std::move(fd), std::move(prefix), ""});
}

// Reads one chunk. False at the end of the file.
bool LogFollower::read_chunk(File& file, std::string& lines) {
  std::array<char, kChunk> chunk{};
  const ssize_t size = ::read(file.fd.get(), chunk.data(), chunk.size());
  if (size <= 0) return false;
  std::string_view text(chunk.data(), static_cast<std::size_t>(size));
  while (!text.empty()) {
    const std::size_t length = std::min(text.find('\n'), text.size());
    file.line += text.substr(0, length);
    const bool ended = length < text.size();
    text.remove_prefix(ended ? length + 1 : length);
    if (ended || file.line.size() >= kLongestLine) {
      lines += file.prefix + file.line + '\n';
      file.line.clear();
    }
  }
  return true;
}

LogFollower::NewLines LogFollower::read() {
  std::array<char, 4096> events{};  // their content is not needed: a read at the end of a file is cheap
  while (::read(inotify_.get(), events.data(), events.size()) > 0) continue;
  NewLines result;
  for (File& file : files_) {
    // One chunk from each file, so that the output of one worker does not delay the others.
    if (read_chunk(file, result.lines)) result.more = true;
  }
  return result;
}

std::string LogFollower::flush() {
  std::string lines;
  for (File& file : files_) {
    if (!file.line.empty()) lines += file.prefix + std::exchange(file.line, "") + '\n';
  }
  return lines;
}

}  // namespace syncbn::launch
