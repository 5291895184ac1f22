// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/fixed_point.h"
#include "exact/exact_sum.h"
#include "exact/parts.h"

/// Records in memory that many threads add to.
namespace syncbn::device {

template <class Storage>
inline constexpr exact::SumFormat kFormat = std::is_same_v<Storage, double>    ? exact::kDoubleSums
                                            : std::is_same_v<Storage, float16> ? exact::kHalfSums
                                                                               : exact::kSingleSums;

/// A channel's record of a block, as digits.
template <class Storage>
struct BlockRecord {
  static constexpr exact::SumFormat kSums = kFormat<Storage>;
  static constexpr int kWords = kSums.sum_digits + kSums.product_digits + 2;
  /// Elements of a channel that a record may take before its carries are propagated. An addition brings less
  /// than 2^47 to a digit, so 2^16 - 1 of them fit. One by one an element takes one addition to a digit of
  /// each sum, float64's two. In channels-last two elements that move their thread's window take three more.
  static constexpr int kElementsBeforeCarry = 1 << 14;

  std::int64_t words[kWords];

  SYNCBN_SIMT std::int64_t* products() { return words + kSums.sum_digits; }
  SYNCBN_SIMT static void add_scaled(std::int64_t* digits, std::int64_t value, int shift) {
    exact::split_scaled(value, shift,
                        [digits](int i, std::int64_t part) { simt::atomic_add(digits + i, part); });
  }
  SYNCBN_SIMT void flag(int sum, std::int64_t flags) {
    simt::atomic_or(words + kSums.sum_digits + kSums.product_digits + sum, flags);
  }
};

template <class Storage>
SYNCBN_COLD void add_totals(BlockRecord<Storage>& record, Totals totals, int unit_a, int unit_b) {
  constexpr int unit = BlockRecord<Storage>::kSums.unit;
  const int at = unit_a + unit_b - 2 * unit;
  record.add_scaled(record.words, totals.sum, unit_a - unit);
  record.add_scaled(record.products(), totals.high, at + 2 * kLevelBits);
  record.add_scaled(record.products(), totals.middle, at + kLevelBits);
  record.add_scaled(record.products(), totals.low, at);
}

/// A finite value as an integer in units of 2^-149 (float) or 2^-1074 (double), shifted.
SYNCBN_SIMT exact::Parts parts_above_unit(float value) {
  const std::uint32_t bits = simt::bits(value);
  const auto exponent = static_cast<int>(bits >> 23 & 0xff);
  const auto significand = static_cast<std::int64_t>((bits & 0x7fffffu) | (exponent != 0 ? 0x800000u : 0));
  return {bits >> 31 != 0 ? -significand : significand, exponent != 0 ? exponent - 1 : 0};
}
SYNCBN_SIMT exact::Parts parts_above_unit(double value) {
  const exact::Parts parts = exact::parts_of(value);
  return {parts.significand, parts.exponent + 1074};
}
/// What a non-finite value is, in the words of flag_of. Not a call of it: the bits suffice.
SYNCBN_SIMT std::int64_t flag_of_bits(bool nan, bool negative) {
  return nan ? exact::kNan : negative ? exact::kMinusInf : exact::kPlusInf;
}

/// Adds one pair, of any value, to the record: a to Σa, a·b to Σa·b.
template <class Storage>
SYNCBN_COLD void add_element(BlockRecord<Storage>& record, kernels::Compute<Storage> a,
                             kernels::Compute<Storage> b) {
  using T = kernels::Compute<Storage>;
  using Bits = std::conditional_t<std::is_same_v<T, double>, std::uint64_t, std::uint32_t>;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(T) - 1);
  constexpr Bits kInfinity =
      sizeof(T) == 8 ? static_cast<Bits>(0x7ff0000000000000) : static_cast<Bits>(0x7f800000);
  const Bits x = std::bit_cast<Bits>(a), y = std::bit_cast<Bits>(b);
  const Bits size_a = x & ~kSign, size_b = y & ~kSign;
  const bool special_a = size_a >= kInfinity, special_b = size_b >= kInfinity;
  if (special_a) record.flag(0, flag_of_bits(size_a > kInfinity, (x & kSign) != 0));
  if (special_a || special_b) {
    const bool nan = size_a > kInfinity || size_b > kInfinity || size_a == 0 || size_b == 0;
    record.flag(1, flag_of_bits(nan, ((x ^ y) & kSign) != 0));
  }
  if (special_a || size_a == 0) return;
  // Half's unit is above float's. Its values are multiples of it, so zeros are shifted out.
  constexpr int kAbove = BlockRecord<Storage>::kSums.unit - (sizeof(T) == 8 ? -1074 : -149);
  const auto parts_in_unit = [](T value) {
    exact::Parts parts = parts_above_unit(value);
    if constexpr (kAbove != 0) {
      if (parts.exponent < kAbove) {
        parts.significand /= std::int64_t{1} << (kAbove - parts.exponent);
        parts.exponent = kAbove;
      }
      parts.exponent -= kAbove;
    }
    return parts;
  };
  const exact::Parts p = parts_in_unit(a);
  record.add_scaled(record.words, p.significand, p.exponent);
  if (special_b || size_b == 0) return;
  const exact::Parts q = parts_in_unit(b);
  const int shift = p.exponent + q.exponent;
  if constexpr (sizeof(T) == 4) {
    record.add_scaled(record.products(), p.significand * q.significand, shift);
  } else {
    // Up to 106 bits, in two parts of one sign.
    const __int128 product = static_cast<__int128>(p.significand) * q.significand;
    constexpr std::int64_t kHalf = std::int64_t{1} << 53;
    record.add_scaled(record.products(), static_cast<std::int64_t>(product % kHalf), shift);
    record.add_scaled(record.products(), static_cast<std::int64_t>(product / kHalf), shift + 53);
  }
}

}  // namespace syncbn::device
