// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/host_device.h"

namespace syncbn::base {

/// An IEEE binary format of 16 bits, by the bits of its exponent and of its stored significand.
struct Format16 {
  int exponent_bits;
  int fraction_bits;
  SYNCBN_DEVICE constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  SYNCBN_DEVICE constexpr std::uint16_t infinity() const {
    return static_cast<std::uint16_t>(((1 << exponent_bits) - 1) << fraction_bits);
  }
};
SYNCBN_DEVICE constexpr Format16 half_format() { return {5, 10}; }
SYNCBN_DEVICE constexpr Format16 brain_format() { return {8, 7}; }

/// The bits of a value, rounded once. Straight from double: through float it would be rounded twice.
SYNCBN_DEVICE inline std::uint16_t encode(double value, Format16 format) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 63) << 15);
  const int biased = static_cast<int>(bits >> 52 & 0x7ff);
  const std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
  if (biased == 0x7ff) {
    const int quiet = fraction == 0 ? 0 : 1 << (format.fraction_bits - 1);
    return static_cast<std::uint16_t>(sign | format.infinity() | quiet);
  }
  if (biased == 0) return sign;  // double's subnormals are far below half of ours
  const int exponent = biased - 1023;
  const int min_exponent = 1 - format.bias();
  const int below = exponent < min_exponent ? min_exponent - exponent : 0;
  const int drop = 52 - format.fraction_bits + below;
  if (drop > 53) return sign;  // below half of the smallest subnormal
  const std::uint64_t significand = fraction | std::uint64_t{1} << 52;
  const std::uint64_t rest = significand & ((std::uint64_t{1} << drop) - 1);
  const std::uint64_t half = std::uint64_t{1} << (drop - 1);
  std::uint64_t kept = significand >> drop;
  kept += rest > half || (rest == half && (kept & 1) != 0) ? 1 : 0;
  // The implicit bit in `kept` raises the exponent by one, and so does a carry, into infinity where it must.
  const int lifted = below != 0 ? 0 : exponent + format.bias() - 1;
  if (lifted >= (1 << format.exponent_bits) - 1) return static_cast<std::uint16_t>(sign | format.infinity());
  const std::uint64_t magnitude = (static_cast<std::uint64_t>(lifted) << format.fraction_bits) + kept;
  return static_cast<std::uint16_t>(sign | (magnitude > format.infinity() ? format.infinity() : magnitude));
}

/// Exact.
SYNCBN_DEVICE inline double decode(std::uint16_t bits, Format16 format) {
  const int magnitude = bits & 0x7fff;
  const int biased = magnitude >> format.fraction_bits;
  const int fraction = magnitude & ((1 << format.fraction_bits) - 1);
  const std::uint64_t sign = static_cast<std::uint64_t>(bits >> 15) << 63;
  if (biased == 0) {
    const double value = std::ldexp(fraction, 1 - format.bias() - format.fraction_bits);
    return std::bit_cast<double>(std::bit_cast<std::uint64_t>(value) | sign);
  }
  const bool special = biased == (1 << format.exponent_bits) - 1;
  const auto exponent = static_cast<std::uint64_t>(special ? 0x7ff : biased - format.bias() + 1023);
  return std::bit_cast<double>(sign | exponent << 52 |
                               static_cast<std::uint64_t>(fraction) << (52 - format.fraction_bits));
}

}  // namespace syncbn::base
