// SPDX-License-Identifier: Apache-2.0
#include "exact/exact_sum.h"

#include <cmath>
#include <limits>

namespace syncbn::exact {
const SumFormat& sum_format(DType dtype) {
  return dtype == DType::float64 ? kDoubleSums : dtype == DType::float16 ? kHalfSums : kSingleSums;
}

std::int64_t flag_of(double value) {
  if (std::isnan(value)) return kNan;
  return value > 0 ? kPlusInf : kMinusInf;
}

SYNCBN_DEVICE double special_value(std::int64_t flags) {
  constexpr std::int64_t field = kPlusInf - 1;
  const bool plus = (flags / kPlusInf & field) != 0;
  const bool minus = (flags / kMinusInf & field) != 0;
  if ((flags & field) != 0 || (plus && minus)) return std::numeric_limits<double>::quiet_NaN();
  return plus ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
}

SYNCBN_DEVICE void propagate_carries(std::int64_t* digits, int count) {
  constexpr std::int64_t radix = std::int64_t{1} << kDigitBits;
  for (int i = 0; i + 1 < count; ++i) {
    if (digits[i] == 0) continue;  // as most of a float64 sum's
    const std::int64_t carry = (digits[i] + radix / 2) >> kDigitBits;
    digits[i] -= carry * radix;
    digits[i + 1] += carry;
  }
}

}  // namespace syncbn::exact
