// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace syncbn {

/// How a device allocates columns.
struct ColumnMemory {
  double* (*allocate)(std::size_t size);
  void (*release)(double* values) noexcept;
};
/// Memory of the host.
inline constexpr ColumnMemory kHostMemory{
    [](std::size_t size) { return static_cast<double*>(::operator new(size * sizeof(double))); },
    [](double* values) noexcept { ::operator delete(values); }};

/// One double per channel, in the memory of the device that holds the layer's tensors. On the CPU it is read
/// and written like a vector.
class Column {
 public:
  using value_type = double;

  Column() = default;
  template <class Iterator>
  Column(Iterator first, Iterator last) {
    assign(first, last);
  }
  Column(const Column& other) : Column(other.begin(), other.end()) {}
  Column(Column&& other) noexcept { swap(other); }
  Column& operator=(Column other) noexcept {
    swap(other);
    return *this;
  }
  ~Column() { reset(0, *memory_); }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  double* data() { return values_; }
  const double* data() const { return values_; }
  double* begin() { return values_; }
  double* end() { return values_ + size_; }
  const double* begin() const { return values_; }
  const double* end() const { return values_ + size_; }
  double& operator[](std::size_t channel) { return values_[channel]; }
  const double& operator[](std::size_t channel) const { return values_[channel]; }

  /// Copies values of the host.
  template <class Iterator>
  void assign(Iterator first, Iterator last) {
    reset(static_cast<std::size_t>(last - first), kHostMemory);
    std::copy(first, last, values_);
  }
  /// Makes a column of `size` values in `memory`. Its values are unspecified. Touches none of them.
  void reset(std::size_t size, const ColumnMemory& memory) {
    if (size == size_ && &memory == memory_) return;
    if (values_ != nullptr) memory_->release(values_);
    values_ = nullptr;
    size_ = 0;
    memory_ = &memory;
    if (size != 0) values_ = memory.allocate(size);
    size_ = size;
  }
  void swap(Column& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(values_, other.values_);
    std::swap(size_, other.size_);
  }

  // NOLINTNEXTLINE(google-explicit-constructor): a column of the CPU is a vector to its reader
  operator std::vector<double>() const { return {begin(), end()}; }
  friend bool operator==(const Column& a, const Column& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  const ColumnMemory* memory_ = &kHostMemory;
  double* values_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace syncbn
