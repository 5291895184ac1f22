#pragma once

#include <cstddef>
#include <cstdint>

#include "syncbn/dtype.h"

/// Exact sums of Σa and Σa·b as fixed-point integers. A sum is a row of int64 digits of radix 2^47, least
/// significant first, in units of 2^unit; digits are signed and may overlap, so that adding rows word by word
/// adds the sums: order and partition can't matter, and one int64 SUM all-reduce merges a group (Kulisch's
/// long accumulator, with the limbs of the reproducible sums of climate models).
namespace syncbn::exact {

inline constexpr int kDigitBits = 47;

/// How the sums of one element type are laid out. A channel's record is [Σa digits][Σa·b digits][flags of Σa]
/// [flags of Σa·b]; its words are what travels.
struct SumFormat {
  int unit;        ///< Σa counts in 2^unit, the type's smallest subnormal or below; Σa·b in 2^(2·unit).
  int sum_digits;  ///< Enough for 2^53 elements of the largest magnitude.
  int product_digits;  ///< The same for products. Digit 2j weighs digit j of Σa squared.
  constexpr int words() const { return sum_digits + product_digits + 2; }
  constexpr int sum_flags() const { return sum_digits + product_digits; }
  constexpr int product_flags() const { return sum_digits + product_digits + 1; }
};
const SumFormat& sum_format(DType dtype);

/// Terms that are no numbers, counted apart. In one rank's record each field is 0 or 1, so a sum over 2^16
/// ranks stays inside its 20 bits.
inline constexpr std::int64_t kNan = 1;
inline constexpr std::int64_t kPlusInf = std::int64_t{1} << 20;
inline constexpr std::int64_t kMinusInf = std::int64_t{1} << 40;
/// The flag of a non-finite value.
std::int64_t flag_of(double value);
/// What a sum with these flags is: NaN, +Inf or -Inf. Only for flags != 0.
double special_value(std::int64_t flags);

/// How many add_scaled calls a normalised row can take before normalise is due.
inline constexpr int kAddsBeforeNormalise = 1 << 14;

/// digits += value · 2^shift, shift >= 0 counted from the row's unit. Touches up to three digits; each grows
/// by less than 2^47.
inline void add_scaled(std::int64_t* digits, std::int64_t value, int shift) {
  const int first = shift / kDigitBits;
  // The magnitude is split, so that every part keeps the sign of the value and stays below 2^47.
  const std::uint64_t magnitude =
      value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  unsigned __int128 rest = static_cast<unsigned __int128>(magnitude) << (shift % kDigitBits);
  for (int i = first; rest != 0; ++i, rest >>= kDigitBits) {
    const auto part =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(rest) & ((std::uint64_t{1} << kDigitBits) - 1));
    digits[i] += value < 0 ? -part : part;
  }
}

/// Carries, so that every digit but the highest lies in [-2^46, 2^46): rows of 2^16 ranks can then be added.
/// Σ unchanged.
void normalise(std::int64_t* digits, int count);
/// Normalises both sums of a channel's record.
void normalise(std::int64_t* record, const SumFormat& format);
/// into += from, records of one channel on one rank: digits are added, flags united.
void merge(std::int64_t* into, const std::int64_t* from, const SumFormat& format);

}  // namespace syncbn::exact
