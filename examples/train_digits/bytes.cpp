// SPDX-License-Identifier: Apache-2.0
#include "bytes.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

namespace {

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw FileError(fmt::format("{}: {}: {}", path, what, std::strerror(errno)));
}

/// An open file that is closed at the end of the scope.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail(path, "cannot be opened");
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::vector<std::uint8_t> read_file(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  std::vector<std::uint8_t> bytes;
  std::array<std::uint8_t, 65536> piece;
  while (true) {
    const ssize_t size = ::read(file.get(), piece.data(), piece.size());
    if (size == 0) return bytes;
    if (size < 0 && errno != EINTR) fail(path, "cannot be read");
    if (size > 0) bytes.insert(bytes.end(), piece.begin(), piece.begin() + size);
  }
}

void write_file_atomically(const std::string& path, std::span<const std::uint8_t> bytes) {
  const std::string temporary = path + ".tmp";
  {
    const Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    while (!bytes.empty()) {
      const ssize_t written = ::write(file.get(), bytes.data(), bytes.size());
      if (written < 0 && errno != EINTR) fail(temporary, "cannot be written");
      if (written > 0) bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    if (::fsync(file.get()) != 0) fail(temporary, "cannot be flushed to the disk");
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) fail(path, "cannot be replaced");
  const std::string folder = std::filesystem::absolute(path).parent_path();
  const Descriptor directory(folder, O_RDONLY | O_DIRECTORY);  // so that the new name is on the disk as well
  if (::fsync(directory.get()) != 0 && errno != EINVAL)        // some file systems cannot, and need not
    fail(folder, "cannot be flushed to the disk");
}

std::uint32_t crc32(std::span<const std::uint8_t> bytes) {
  std::uint32_t crc = 0xffffffff;
  for (const std::uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320 : 0);
  }
  return ~crc;
}

std::span<const std::uint8_t> ByteReader::take(std::size_t size) {
  if (size > left())
    throw FileError(fmt::format("{}: truncated: it ends after {} bytes", path_, bytes_.size()));
  position_ += size;
  return bytes_.subspan(position_ - size, size);
}

std::uint64_t ByteReader::integer(std::size_t size) {
  std::uint64_t value = 0;
  const auto bytes = take(size);
  for (std::size_t i = 0; i < size; ++i) value |= std::uint64_t{bytes[i]} << (8 * i);
  return value;
}
