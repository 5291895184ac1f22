// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>

/// FNV-1a, 64 bits, over the bits of values: one short line that tells whether two runs gave the same bits.
class Digest {
 public:
  void add(std::span<const float> values) {
    for (const float v : values) add_bits(std::bit_cast<std::uint32_t>(v), 4);
  }
  void add(std::span<const double> values) {
    for (const double v : values) add_bits(std::bit_cast<std::uint64_t>(v), 8);
  }
  void add(std::int64_t value) { add_bits(static_cast<std::uint64_t>(value), 8); }

  std::uint64_t value() const { return hash_; }
  std::string hex() const {
    std::array<char, 17> text{};
    std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash_));
    return text.data();
  }

 private:
  void add_bits(std::uint64_t bits, int bytes) {  // lowest byte first, whatever the machine's order
    for (int i = 0; i < bytes; ++i) hash_ = (hash_ ^ ((bits >> (8 * i)) & 0xff)) * 0x100000001b3;
  }

  std::uint64_t hash_ = 0xcbf29ce484222325;
};
