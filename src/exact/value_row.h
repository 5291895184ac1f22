// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "exact/exact_sum.h"
#include "exact/parts.h"
#include "exact/wide_int.h"

/// Rows for sums of single values, apart from channels: the digits of one sum, then its flags.
namespace syncbn::exact {

inline constexpr int value_row_words(const SumFormat& format) { return format.sum_digits + 1; }

/// Adds a value to a zeroed row. NaN and infinities only raise a flag.
inline void add_value(double value, const SumFormat& format, std::int64_t* row) {
  if (!std::isfinite(value)) {
    row[format.sum_digits] = flag_of(value);
    return;
  }
  const Parts parts = odd_parts_of(value);
  add_scaled(row, parts.significand, parts.exponent - format.unit);
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
