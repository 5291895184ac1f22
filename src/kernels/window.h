// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "exact/record.h"
#include "syncbn/dtype.h"

/// What the vector kernels of the exact sums have in common: the terms that one call sums, and the window of
/// exponents in which its accumulators are exact.
namespace syncbn::kernels {

/// `rows` runs of n elements, each `stride` elements after the one before; what is read next probably goes on
/// so. b is summed as it is; a too, or, under a ReLU mask, as +0 where the mask's element is neither positive
/// nor NaN.
template <class Storage>
struct Rows {
  const Storage *a, *b, *mask;  ///< mask may be null.
  std::size_t rows, n, stride;
  bool squares() const { return a == b && mask == nullptr; }
};

/// Additions that one accumulator may see before it is read. More would narrow the window, fewer pay the
/// reading more often.
inline constexpr int kLogAdditions = 7;
inline constexpr std::size_t kMaxAdditions = std::size_t{1} << kLogAdditions;

inline constexpr std::uint32_t kInfinityBits = 0x7f800000;
/// The exponent of a finite float's |bits|, subnormals counted as the smallest normal ones.
inline int exponent_of(std::uint32_t bits) { return std::max(static_cast<int>(bits >> 23) - 127, -126); }
/// Of the elements of one operand in a block: the largest |bits|, as integers, where infinities and NaN are
/// the largest, and the smallest nonzero ones minus one (2^32 - 1 where all are zero).
struct OperandRange {
  std::uint32_t max, min_minus_one;
  /// Whether all lie in [low, high).
  bool fits(std::uint32_t low, std::uint32_t high) const {
    return max < high && (max == 0 || min_minus_one + 1 >= low);
  }
  bool has_specials() const { return max >= kInfinityBits; }
};

/// Which elements are summed exactly, and where the accumulators start. Accumulators are doubles that begin
/// at 1.5·2^k and stay in that binade, so what they hold is the difference of two bit patterns, in units of
/// ulp(2^k).
struct Window {
  double sum_start, high_start, low_start;
  int sum_ulp, high_ulp, low_ulp;  ///< log2 of each accumulator's unit.
  std::uint32_t a_low, a_high;     ///< |bits| of a admitted: [a_low, a_high).
  std::uint32_t b_low, b_high;     ///< Likewise of b.

  bool holds(OperandRange a, OperandRange b) const { return a.fits(a_low, a_high) && b.fits(b_low, b_high); }
  /// What the accumulators hold, as integers in their units.
  exact::WindowSums sums(std::int64_t sum, std::int64_t high, std::int64_t low) const {
    return {sum, high, low, sum_ulp, low_ulp, high_ulp - low_ulp};
  }
};
/// 1.5·2^exponent, where an accumulator starts.
constexpr double start_at(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52 | std::uint64_t{1} << 51);
}
/// The window for at most kMaxAdditions an accumulator, of elements whose largest exponents are those given,
/// in [-126, 127]. It reaches down 27 - l octaves, l = kLogAdditions: with p = 24 bits a number, the sums are
/// exact for span <= 51 - p - l, and the products for span_a + span_b <= 102 - 2p - 2l.
inline Window make_window(int max_exponent_a, int max_exponent_b) {
  constexpr int l = kLogAdditions;
  constexpr int span = 27 - l;
  // Not lower than where the window's floor is the smallest normal exponent: subnormals share its unit.
  const int a = std::max(max_exponent_a, span - 126);
  const int b = std::max(max_exponent_b, span - 126);
  const int sum = a + 2 + l;       // |Σa| < 2^(sum - 1)
  const int high = a + b + 3 + l;  // |Σa·b| < 2^(high - 1)
  const int low = high - 51 + l;   // each rest is at most half an ulp of the high part
  const auto floor_bits = [](int exponent) {
    return exponent <= -126 ? 0u : static_cast<std::uint32_t>(exponent + 127) << 23;
  };
  const auto ceiling_bits = [](int exponent) { return static_cast<std::uint32_t>(exponent + 128) << 23; };
  return {start_at(sum),        start_at(high),  start_at(low),        sum - 52,       high - 52, low - 52,
          floor_bits(a - span), ceiling_bits(a), floor_bits(b - span), ceiling_bits(b)};
}
/// All finite float16 values fit one window.
inline Window half_window() {
  // Units of 2^-24 and, for products, 2^-48, binades of 2^52 units. |a| < 2^16, |a·b| < 2^32, and what the
  // high part leaves is below 2^-10: with 2^9 additions all stay below half a binade.
  static_assert(kLogAdditions <= 9);
  constexpr std::uint32_t above = (16u + 127u) << 23;
  return {start_at(28), start_at(42), start_at(4), -24, -10, -48, 0, above, 0, above};
}
template <class Storage>
Window window_of(int max_exponent_a, int max_exponent_b) {
  return std::is_same_v<Storage, float16> ? half_window() : make_window(max_exponent_a, max_exponent_b);
}

/// Where to look for the next elements of an operand, by those just seen: probably alike, one octave to
/// spare.
inline int next_exponent(std::uint32_t max) { return std::min(exponent_of(max) + 1, 127); }

}  // namespace syncbn::kernels
