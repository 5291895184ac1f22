// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

/// What a fuzz target reads its decisions from, and how it tells of a fault.
namespace fuzz {

/// Takes values off the front of the fuzzer's bytes.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  bool empty() const { return left_ == 0; }
  template <class T>
  T take() {  ///< Zeros where the bytes are used up.
    T value{};
    const std::size_t size = std::min(sizeof(T), left_);
    std::memcpy(&value, data_, size);
    data_ += size;
    left_ -= size;
    return value;
  }
  /// In [0, count), count at most 256.
  int below(int count) { return take<std::uint8_t>() % count; }
  std::string_view bytes(std::size_t size) {
    size = std::min(size, left_);
    const std::string_view taken(reinterpret_cast<const char*>(data_), size);
    data_ += size;
    left_ -= size;
    return taken;
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

/// The fuzzer keeps the input of a process that ends so.
inline void expect(bool good, const std::string& what) {
  if (good) return;
  std::fprintf(stderr, "fault: %s\n", what.c_str());
  std::abort();
}

}  // namespace fuzz
