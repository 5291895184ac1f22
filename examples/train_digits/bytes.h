// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// A file is missing, damaged, or made for something else. The message begins with the file's name.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// @throws FileError
std::vector<std::uint8_t> read_file(const std::string& path);
/// The file is either as it was or complete, whenever the program or the machine stops: written beside it,
/// flushed to the disk, renamed. @throws FileError
void write_file_atomically(const std::string& path, std::span<const std::uint8_t> bytes);

/// CRC-32 as in zlib, gzip and PNG.
std::uint32_t crc32(std::span<const std::uint8_t> bytes);

/// Appends integers, lowest byte first, whatever the machine's order.
class ByteWriter {
 public:
  void text(std::string_view text) { bytes_.insert(bytes_.end(), text.begin(), text.end()); }
  void u32(std::uint32_t value) { integer(value, 4); }
  void u64(std::uint64_t value) { integer(value, 8); }
  const std::vector<std::uint8_t>& bytes() const { return bytes_; }

 private:
  void integer(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) bytes_.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  }
  std::vector<std::uint8_t> bytes_;
};

/// Reads them back. @throws FileError beyond the end: the file is truncated.
class ByteReader {
 public:
  ByteReader(std::string path, std::span<const std::uint8_t> bytes) : path_(std::move(path)), bytes_(bytes) {}

  std::span<const std::uint8_t> take(std::size_t size);
  std::uint32_t u32() { return static_cast<std::uint32_t>(integer(4)); }
  std::uint64_t u64() { return integer(8); }
  std::size_t left() const { return bytes_.size() - position_; }

 private:
  std::uint64_t integer(std::size_t size);

  std::string path_;
  std::span<const std::uint8_t> bytes_;
  std::size_t position_ = 0;
};
