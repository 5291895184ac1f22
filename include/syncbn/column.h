// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <utility>
#include <vector>

#include "syncbn/export.h"

namespace syncbn {

/// Memory of a device: how it is allocated, and copied from and to.
struct DeviceMemory {
  void* (*allocate)(std::size_t bytes);  ///< Aligned to 64 bytes. @throws std::bad_alloc
  void (*release)(void* memory) noexcept;
  /// Copies between the device and the host, or within one of them.
  void (*copy)(void* to, const void* from, std::size_t bytes);
};
/// Memory of the host. One object for the library and all programs: memories are told apart by their
/// addresses.
SYNCBN_API extern const DeviceMemory kHostMemory;

/// Bytes in the memory of a device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const DeviceBuffer& other) {
    resize(other.bytes_, *other.memory_);
    if (bytes_ != 0) memory_->copy(data_, other.data_, bytes_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer() { resize(0, *memory_); }

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  const DeviceMemory& memory() const { return *memory_; }
  /// Allocates `bytes` in `memory`, unless the buffer has them there. Their values are unspecified.
  void resize(std::size_t bytes, const DeviceMemory& memory) {
    if (bytes == bytes_ && &memory == memory_) return;
    if (data_ != nullptr) memory_->release(std::exchange(data_, nullptr));
    bytes_ = 0;
    memory_ = &memory;
    if (bytes != 0) data_ = memory.allocate(bytes);
    bytes_ = bytes;
  }
  void swap(DeviceBuffer& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

 private:
  const DeviceMemory* memory_ = &kHostMemory;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// One double per channel, in the memory of the device that holds the layer's tensors. On the CPU it is read
/// and written like a vector; of any device it is copied to a vector.
class Column {
 public:
  using value_type = double;

  Column() = default;
  template <class Iterator>
  Column(Iterator first, Iterator last) {
    assign(first, last);
  }

  std::size_t size() const { return buffer_.bytes() / sizeof(double); }
  bool empty() const { return size() == 0; }
  double* data() { return static_cast<double*>(buffer_.data()); }
  const double* data() const { return static_cast<const double*>(buffer_.data()); }
  double* begin() { return data(); }
  double* end() { return data() + size(); }
  const double* begin() const { return data(); }
  const double* end() const { return data() + size(); }
  double& operator[](std::integral auto channel) { return data()[channel]; }
  const double& operator[](std::integral auto channel) const { return data()[channel]; }
  const DeviceMemory& memory() const { return buffer_.memory(); }

  /// Makes a column on the CPU of the values from `first` to `last`.
  template <class Iterator>
  void assign(Iterator first, Iterator last) {
    resize(static_cast<std::size_t>(last - first), kHostMemory);
    std::copy(first, last, data());
  }
  /// Makes a column of `size` values in `memory`. Its values are unspecified.
  void resize(std::size_t size, const DeviceMemory& memory) { buffer_.resize(size * sizeof(double), memory); }
  void swap(Column& other) noexcept { buffer_.swap(other.buffer_); }

  // NOLINTNEXTLINE(google-explicit-constructor): a column is a vector to its reader
  operator std::vector<double>() const {
    std::vector<double> values(size());
    if (!empty()) memory().copy(values.data(), data(), buffer_.bytes());
    return values;
  }
  friend bool operator==(const Column& a, const Column& b) {
    return std::vector<double>(a) == std::vector<double>(b);
  }

 private:
  DeviceBuffer buffer_;
};

}  // namespace syncbn
