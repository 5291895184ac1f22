// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/host_device.h"

namespace syncbn::exact {

/// A finite double taken apart: value = significand · 2^exponent, |significand| < 2^53.
struct Parts {
  std::int64_t significand;
  int exponent;
};

/// Biased exponent of a double: 0 for zeros and subnormals, 2047 for infinities and NaN.
SYNCBN_DEVICE inline int biased_exponent(double value) {
  return static_cast<int>(std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ff);
}

/// Takes a finite value apart as its bits say, without a branch. A zero gets the exponent of the subnormals.
SYNCBN_DEVICE inline Parts parts_of(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const int biased = biased_exponent(value);
  const auto magnitude = static_cast<std::int64_t>((bits & ((std::uint64_t{1} << 52) - 1)) |
                                                   static_cast<std::uint64_t>(biased != 0) << 52);
  const auto sign = static_cast<std::int64_t>(bits) >> 63;  // 0 or -1
  return {(magnitude ^ sign) - sign, std::max(biased, 1) - 1075};
}

/// Takes a finite value apart with an odd significand, or {0, 0}. The exponent is then never below the unit
/// of the narrowest type that holds the value.
SYNCBN_DEVICE inline Parts odd_parts_of(double value) {
  const Parts parts = parts_of(value);
  if (parts.significand == 0) return {0, 0};
  const int zeros = std::countr_zero(static_cast<std::uint64_t>(parts.significand));
  return {parts.significand >> zeros, parts.exponent + zeros};
}

}  // namespace syncbn::exact
