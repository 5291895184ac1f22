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
};

/// Makes a record hold just these; what it held before does not matter.
void set(std::int64_t* record, const SumFormat& format, const WindowSums& sums);
bool holds_window_sums(const std::int64_t* record, const SumFormat& format);
/// Of a record that holds them.
WindowSums window_sums(const std::int64_t* record);
/// Makes a record hold normalised digits, if it does not yet.
void spread(std::int64_t* record, const SumFormat& format);
/// into += from, in whichever form holds the sum; `from` may be spread.
void unite(std::int64_t* into, std::int64_t* from, const SumFormat& format);

}  // namespace syncbn::exact
