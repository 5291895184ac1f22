#include "exact/finish.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>

#include "exact/fixed_int.h"
#include "exact/wide_int.h"

static_assert(FLT_EVAL_METHOD == 0, "every operation must round to its own type");

namespace syncbn::exact {
namespace {

// The integers of a record without the digits that both sums have zero at their low end: digit 2j of Σa·b
// weighs digit j of Σa squared, so dropping j of the one and 2j of the other keeps the pair in step.
struct WideSums {
  WideInt sum;
  WideInt product;
  int unit;  // sum counts in 2^unit, product in 2^(2·unit)
};
// Ordinary data needs three digits of the one and six of the other.
constexpr int kDigits = 3;
struct Sums {
  FixedInt<3> sum;
  FixedInt<5> product;
  int unit;
};

int low_zeros(const std::int64_t* record, const SumFormat& format) {
  const std::int64_t* products = record + format.sum_digits;
  int j = 0;
  while (j + 1 < format.sum_digits && (record[j] | products[2 * j] | products[2 * j + 1]) == 0) ++j;
  return j;
}

// The digits from `first` on, zeros behind them. False where kCount are too few.
template <int kCount>
bool take(const std::int64_t* digits, int first, int count, std::int64_t (&taken)[kCount]) {
  for (int i = 0; i < kCount; ++i) taken[i] = first + i < count ? digits[first + i] : 0;
  std::int64_t above = 0;
  for (int i = first + kCount; i < count; ++i) above |= digits[i];
  return above == 0;
}

// False where they do not fit.
bool narrow_sums(const std::int64_t* record, const SumFormat& format, Sums& sums) {
  const int dropped = low_zeros(record, format);
  std::int64_t sum[kDigits], product[2 * kDigits];
  if (!take(record, dropped, format.sum_digits, sum)) return false;
  if (!take(record + format.sum_digits, 2 * dropped, format.product_digits, product)) return false;
  sums = {FixedInt<3>::from_digits(sum), FixedInt<5>::from_digits(product),
          format.unit + kDigitBits * dropped};
  return true;
}

WideSums wide_sums(const std::int64_t* record, const SumFormat& format) {
  const int dropped = low_zeros(record, format);
  return {WideInt::from_digits(record + dropped, format.sum_digits - dropped),
          WideInt::from_digits(record + format.sum_digits + 2 * dropped, format.product_digits - 2 * dropped),
          format.unit + kDigitBits * dropped};
}

// mean = significand · 2^exponent
struct Parts {
  std::int64_t significand;
  int exponent;
};
Parts parts_of(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
  const auto magnitude = static_cast<std::int64_t>((bits & ((std::uint64_t{1} << 52) - 1)) |
                                                   static_cast<std::uint64_t>(exponent != 0) << 52);
  return {value < 0 ? -magnitude : magnitude, std::max(exponent, 1) - 1075};
}

bool is_special(const std::int64_t* record, const SumFormat& format) {
  return (record[format.sum_flags()] | record[format.product_flags()]) != 0;
}

double rounded_product(const std::int64_t* record, const SumFormat& format) {
  if (record[format.product_flags()] != 0) return special_value(record[format.product_flags()]);
  return WideInt::from_digits(record + format.sum_digits, format.product_digits).to_double(2 * format.unit);
}

}  // namespace

double rounded_sum(const std::int64_t* record, const SumFormat& format) {
  if (record[format.sum_flags()] != 0) return special_value(record[format.sum_flags()]);
  int low = 0;
  while (low + 1 < format.sum_digits && record[low] == 0) ++low;
  std::int64_t digits[kDigits];
  if (take(record, low, format.sum_digits, digits)) {
    return FixedInt<3>::from_digits(digits).to_double(format.unit + kDigitBits * low);
  }
  return WideInt::from_digits(record, format.sum_digits).to_double(format.unit);
}

double centred_product(const std::int64_t* record, const SumFormat& format, double mean) {
  if (is_special(record, format) || !std::isfinite(mean)) {
    const double correction = mean * rounded_sum(record, format);
    return rounded_product(record, format) - correction;
  }
  const Parts parts = parts_of(mean);
  Sums sums;
  if (narrow_sums(record, format, sums)) {
    const int above = parts.exponent - sums.unit;
    const FixedInt<4> mean_times_sum = FixedInt<1>::of(parts.significand) * sums.sum;
    if (above >= 0 && above < 128) {
      return (sums.product.widened<7>() - mean_times_sum.shifted(above).widened<7>())
          .to_double(2 * sums.unit);
    }
    if (above < 0 && above > -128) {
      return (sums.product.shifted(-above) - mean_times_sum.widened<7>())
          .to_double(parts.exponent + sums.unit);
    }
  }
  const WideSums wide = wide_sums(record, format);
  const int above = parts.exponent - wide.unit;  // the product's unit is 2^(exponent + unit)
  const WideInt mean_times_sum = WideInt(parts.significand) * wide.sum;
  if (mean_times_sum.is_zero()) return wide.product.to_double(2 * wide.unit);
  return above >= 0 ? (wide.product - mean_times_sum.shifted(above)).to_double(2 * wide.unit)
                    : (wide.product.shifted(-above) - mean_times_sum).to_double(parts.exponent + wide.unit);
}

double inverse_std(double var, double eps) {
  const double shifted = var + eps;
  return 1 / std::sqrt(shifted);
}

Statistics statistics(const std::int64_t* record, const SumFormat& format, std::int64_t count, double eps) {
  const auto n = static_cast<double>(count);
  double s1 = 0;
  double m2 = std::numeric_limits<double>::quiet_NaN();
  Statistics result{};
  if (is_special(record, format)) {
    s1 = rounded_sum(record, format);
    result.mean = record[format.sum_flags()] != 0 ? s1 : s1 / n;
  } else {
    Sums sums;
    if (narrow_sums(record, format, sums)) {
      s1 = sums.sum.to_double(sums.unit);
      m2 = (FixedInt<1>::of(count) * sums.product - sums.sum * sums.sum).to_double(2 * sums.unit);
    } else {
      const WideSums wide = wide_sums(record, format);
      s1 = wide.sum.to_double(wide.unit);
      m2 = (WideInt(count) * wide.product - wide.sum * wide.sum).to_double(2 * wide.unit);
    }
    result.mean = s1 / n;
  }
  const double m2_over_n = m2 / n;
  result.var = m2_over_n / n;
  result.var_unbiased = m2_over_n / (n - 1);
  result.invstd = inverse_std(result.var, eps);
  return result;
}

double running_update(double running, double batch, double factor) {
  const double keep = 1 - factor;
  const double kept = keep * running;
  const double added = factor * batch;
  return kept + added;
}

}  // namespace syncbn::exact
