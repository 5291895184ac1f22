#pragma once

#include <cstdint>

#include "exact/exact_sum.h"

/// A record's other form: a channel's sums as the integers that the accumulators of one window of exponents
/// hold. It costs little to make and to finish from; to be added word by word, or sent, a record must be
/// spread into its digits.
namespace syncbn::exact {

/// Σa = sum · 2^sum_unit, Σa·b = (high · 2^high_shift + low) · 2^product_unit, 0 <= high_shift < 64. Without
/// terms all of it is zero.
struct WindowSums {
  std::int64_t sum = 0, high = 0, low = 0;
  int sum_unit = 0, product_unit = 0, high_shift = 0;

  __int128 product() const {
    return (static_cast<__int128>(high) << high_shift) + low;
  }  ///< Σa·b in its unit.
};

/// Stands in the flags of the sum, beyond what they reach, in a record of window sums.
inline constexpr std::int64_t kHoldsWindowSums = std::int64_t{1} << 62;

inline bool holds_window_sums(const std::int64_t* record, const SumFormat& format) {
  return record[format.sum_flags()] == kHoldsWindowSums;
}
/// Makes a record hold just these; what it held before does not matter.
inline void set(std::int64_t* record, const SumFormat& format, const WindowSums& sums) {
  record[0] = sums.sum;
  record[1] = sums.high;
  record[2] = sums.low;
  record[3] = sums.sum_unit;
  record[4] = sums.product_unit * 64 + sums.high_shift;
  record[format.sum_flags()] = kHoldsWindowSums;
  record[format.product_flags()] = 0;
}
/// Of a record that holds them.
inline WindowSums window_sums(const std::int64_t* record) {
  const auto products = static_cast<int>(record[4]);
  return {record[0], record[1], record[2], static_cast<int>(record[3]), products >> 6, products & 63};
}
/// digits += sums, which are due to be normalised sooner by two additions.
inline void add_to_digits(std::int64_t* digits, const SumFormat& format, const WindowSums& sums) {
  const int above_unit = sums.product_unit - 2 * format.unit;
  std::int64_t* products = digits + format.sum_digits;
  add_scaled(digits, sums.sum, sums.sum_unit - format.unit);
  add_scaled(products, sums.high, above_unit + sums.high_shift);
  add_scaled(products, sums.low, above_unit);
}
/// Makes a record hold normalised digits, if it does not yet.
void spread(std::int64_t* record, const SumFormat& format);
/// into += from, in whichever form holds the sum; `from` may be spread.
void unite(std::int64_t* into, std::int64_t* from, const SumFormat& format);

}  // namespace syncbn::exact
