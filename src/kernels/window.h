// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "exact/record.h"
#include "syncbn/dtype.h"

/// Types that the vector kernels of the exact sums share: the terms of one call, and the window of exponents
/// in which its accumulators are exact.
namespace syncbn::kernels {

/// Terms of one call: `rows` runs of n elements, each `stride` elements after the run before. The next call
/// usually continues at the same stride (used for prefetching). `b` is summed unchanged. `a` counts as +0
/// wherever `mask` is given and its element is neither positive nor NaN.
template <class Storage>
struct Rows {
  const Storage *a, *b, *mask;  ///< mask may be null.
  std::size_t rows, n, stride;
  bool squares() const { return a == b && mask == nullptr; }
  /// The elements [first, first + count) of each row.
  Rows part(std::size_t first, std::size_t count) const {
    return {a + first, b + first, mask == nullptr ? nullptr : mask + first, rows, count, stride};
  }
};

/// Additions that one accumulator may see before it is read. A larger value narrows the window; a smaller one
/// reads the accumulators more often.
inline constexpr int kLogAdditions = 7;
inline constexpr std::size_t kMaxAdditions = std::size_t{1} << kLogAdditions;

inline constexpr std::uint32_t kInfinityBits = 0x7f800000;
/// The exponent of a finite float's |bits|. Subnormals count as the smallest normal numbers.
inline int exponent_of(std::uint32_t bits) { return std::max(static_cast<int>(bits >> 23) - 127, -126); }
/// Range of |bits| of one operand in a block, as integers: the largest, and the smallest nonzero minus one.
/// Infinities and NaN are the largest integers. If all elements are zero, min_minus_one is 2^32 - 1.
struct OperandRange {
  std::uint32_t max, min_minus_one;
  /// True if all nonzero elements lie in [low, high).
  bool fits(std::uint32_t low, std::uint32_t high) const {
    return max < high && (max == 0 || min_minus_one + 1 >= low);
  }
  bool has_specials() const { return max >= kInfinityBits; }
};

/// Window of exponents whose elements are summed exactly, and the start of each accumulator. An accumulator
/// is a double that begins at 1.5·2^k and stays in that binade. Its sum is the difference of two bit
/// patterns, in units of ulp(2^k).
struct Window {
  double sum_start, high_start, low_start;
  int sum_ulp, high_ulp, low_ulp;  ///< log2 of each accumulator's unit.
  std::uint32_t a_low, a_high;     ///< The window of |bits| of a: [a_low, a_high).
  std::uint32_t b_low, b_high;     ///< The window of |bits| of b: [b_low, b_high).

  bool holds(OperandRange a, OperandRange b) const { return a.fits(a_low, a_high) && b.fits(b_low, b_high); }
  /// Window sums from the integers that the accumulators hold.
  exact::WindowSums sums(std::int64_t sum, std::int64_t high, std::int64_t low) const {
    return {sum, high, low, sum_ulp, low_ulp, high_ulp - low_ulp};
  }
};
/// 1.5·2^exponent, the start of an accumulator.
constexpr double start_at(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52 | std::uint64_t{1} << 51);
}
/// The window for elements with these largest exponents, in [-126, 127], and at most kMaxAdditions an
/// accumulator. The window spans 27 - l octaves, l = kLogAdditions. With numbers of p = 24 bits, the sums are
/// exact for span <= 51 - p - l, and the products for span_a + span_b <= 102 - 2p - 2l.
inline Window make_window(int max_exponent_a, int max_exponent_b) {
  constexpr int l = kLogAdditions;
  constexpr int span = 27 - l;
  // The window's floor is never below the smallest normal exponent, whose unit subnormals share.
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
  // The units are 2^-24 and, for products, 2^-48; a binade has 2^52 units. |a| < 2^16, |a·b| < 2^32, and the
  // rest of the high part is below 2^-10. So after 2^9 additions each sum is still below half a binade.
  static_assert(kLogAdditions <= 9);
  constexpr std::uint32_t above = (16u + 127u) << 23;
  return {start_at(28), start_at(42), start_at(4), -24, -10, -48, 0, above, 0, above};
}
template <class Storage>
Window window_of(int max_exponent_a, int max_exponent_b) {
  return std::is_same_v<Storage, float16> ? half_window() : make_window(max_exponent_a, max_exponent_b);
}

/// Guess of the next elements' largest exponent: that of the elements just seen, and one octave to spare.
inline int next_exponent(std::uint32_t max) { return std::min(exponent_of(max) + 1, 127); }

}  // namespace syncbn::kernels
