// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/host_device.h"
#include "syncbn/dtype.h"

/// Exact sums as rows of digits. A row is a fixed-point integer: int64 digits of radix 2^47, least
/// significant first, in units of 2^unit. Digits are signed and may overlap, so adding rows word by word adds
/// the sums. Order and partition can't matter, and one int64 SUM all-reduce merges a group. (This is
/// Kulisch's long accumulator, with the limbs of the reproducible sums of climate models.)
namespace syncbn::exact {

inline constexpr int kDigitBits = 47;

/// Layout of a channel's record for one element type: [Σa digits][Σa·b digits][flags of Σa][flags of Σa·b].
struct SumFormat {
  int unit;        ///< Σa counts in 2^unit, the type's smallest subnormal or below; Σa·b in 2^(2·unit).
  int sum_digits;  ///< Enough for 2^53 elements of the largest magnitude.
  int product_digits;  ///< Enough for as many products. Digit 2j has the weight of digit j of Σa, squared.
  SYNCBN_DEVICE constexpr int words() const { return sum_digits + product_digits + 2; }
};
// Number of digits for 2^53 terms: (bits from the unit to the largest magnitude + 53) / 47. The highest digit
// uses the whole word, so it has 16 bits to spare.
inline constexpr SumFormat kHalfSums{-24, 2, 3};
inline constexpr SumFormat kSingleSums{-149, 7, 13};  // bfloat16 too: its values are float32 values
inline constexpr SumFormat kDoubleSums{-1074, 46, 91};
const SumFormat& sum_format(DType dtype);

/// Flags count the terms that are not finite. In one rank's record each field is 0 or 1, so a sum over 2^16
/// ranks stays inside the 20 bits of its field.
inline constexpr std::int64_t kNan = 1;
inline constexpr std::int64_t kPlusInf = std::int64_t{1} << 20;
inline constexpr std::int64_t kMinusInf = std::int64_t{1} << 40;
/// The flag of a non-finite value.
std::int64_t flag_of(double value);
/// Value of a sum with these flags, which are not 0: NaN, +Inf or -Inf.
SYNCBN_DEVICE double special_value(std::int64_t flags);

/// Number of add_scaled calls that a row with propagated carries can take before the next propagation.
inline constexpr int kAddsBeforeCarry = 1 << 14;

/// Calls add(i, part) for each digit i that value · 2^shift touches, with shift >= 0 in the row's unit: up to
/// three digits, |part| < 2^47.
template <class Add>
SYNCBN_DEVICE inline void split_scaled(std::int64_t value, int shift, const Add& add) {
  const int first = shift / kDigitBits;
  // The magnitude is split, so that every part keeps the sign of the value and stays below 2^47.
  const std::uint64_t magnitude =
      value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  unsigned __int128 rest = static_cast<unsigned __int128>(magnitude) << (shift % kDigitBits);
  for (int i = first; rest != 0; ++i, rest >>= kDigitBits) {
    const auto part =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(rest) & ((std::uint64_t{1} << kDigitBits) - 1));
    add(i, value < 0 ? -part : part);
  }
}

/// digits += value · 2^shift, as split_scaled. Each digit that it touches grows by less than 2^47.
SYNCBN_DEVICE inline void add_scaled(std::int64_t* digits, std::int64_t value, int shift) {
  split_scaled(value, shift, [digits](int i, std::int64_t part) { digits[i] += part; });
}

/// Moves carries up until every digit but the highest lies in [-2^46, 2^46). Rows of 2^16 ranks can then be
/// added. The sum is unchanged.
SYNCBN_DEVICE void propagate_carries(std::int64_t* digits, int count);

}  // namespace syncbn::exact
