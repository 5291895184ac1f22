#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "exact/exact_sum.h"
#include "exact/wide_int.h"

/// Rows for sums of single values, which are no channel's: the digits of one sum, then its flags. A row has
/// sum_digits + 1 words.
namespace syncbn::exact {

inline constexpr int value_row_words(const SumFormat& format) { return format.sum_digits + 1; }

/// Adds to a zeroed row. NaN and infinities only raise a flag.
template <class T>
void add_value(T value, const SumFormat& format, std::int64_t* row) {
  if (!std::isfinite(value)) {
    row[format.sum_digits] = flag_of(static_cast<double>(value));
    return;
  }
  // value = significand · 2^(unit + shift)
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int kFraction = sizeof(T) == 4 ? 23 : 52;
  const auto bits = std::bit_cast<Bits>(value);
  const auto fraction = static_cast<std::int64_t>(bits & ((Bits{1} << kFraction) - 1));
  const int biased = static_cast<int>(bits << 1 >> (kFraction + 1));
  const std::int64_t significand = biased == 0 ? fraction : fraction | std::int64_t{1} << kFraction;
  add_scaled(row, std::signbit(value) ? -significand : significand, std::max(biased, 1) - 1);
}

/// The sum, rounded once.
template <class T>
T value_of(const std::int64_t* row, const SumFormat& format) {
  if (row[format.sum_digits] != 0) return static_cast<T>(special_value(row[format.sum_digits]));
  const auto sum = WideInt::from_digits(row, format.sum_digits);
  if constexpr (std::is_same_v<T, float>) {
    return sum.to_float(format.unit);
  } else {
    return sum.to_double(format.unit);
  }
}

}  // namespace syncbn::exact
