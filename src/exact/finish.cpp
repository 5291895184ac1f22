#include "exact/finish.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <optional>

#include "exact/fixed_int.h"
#include "exact/wide_int.h"
#include "exact/window_sums.h"

static_assert(FLT_EVAL_METHOD == 0, "every operation must round to its own type");

namespace syncbn::exact {
namespace {

// The integers of a record: `sum` counts in 2^sum_unit, `product` in 2^product_unit. Of digits, those that
// both sums have zero at their low end are left out: digit 2j of Σa·b weighs digit j of Σa squared, so
// dropping j of the one and 2j of the other keeps the pair in step.
template <class Sum, class Product>
struct Integers {
  Sum sum;
  Product product;
  int sum_unit, product_unit;
};
using WideSums = Integers<WideInt, WideInt>;
// The same in fixed numbers of words.
template <int kSum, int kProduct>
using FixedSums = Integers<FixedInt<kSum>, FixedInt<kProduct>>;
// Ordinary data needs three digits of the one and six of the other.
constexpr int kDigits = 3;
using DigitSums = FixedSums<3, 5>;
using ShortSums = FixedSums<1, 2>;

ShortSums short_sums(const std::int64_t* record) {
  const WindowSums sums = window_sums(record);
  return {FixedInt<1>::of(sums.sum), FixedInt<2>::of(sums.product()), sums.sum_unit, sums.product_unit};
}

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

// The digits of ordinary data.
struct FewDigits {
  std::int64_t sum[kDigits], product[2 * kDigits];
  int unit;

  // Made where it is used: to copy integers that were just written took 20 of 70 ns a channel (Zen 4).
  DigitSums sums() const {
    return {FixedInt<3>::from_digits(sum), FixedInt<5>::from_digits(product), unit, 2 * unit};
  }
};

// False where there are more.
bool few_digits(const std::int64_t* record, const SumFormat& format, FewDigits& digits) {
  const int dropped = low_zeros(record, format);
  digits.unit = format.unit + kDigitBits * dropped;
  return take(record, dropped, format.sum_digits, digits.sum) &&
         take(record + format.sum_digits, 2 * dropped, format.product_digits, digits.product);
}

WideSums wide_sums(const std::int64_t* record, const SumFormat& format) {
  if (holds_window_sums(record, format)) {
    const ShortSums sums = short_sums(record);
    return {sums.sum.wide(), sums.product.wide(), sums.sum_unit, sums.product_unit};
  }
  const int dropped = low_zeros(record, format);
  const int unit = format.unit + kDigitBits * dropped;
  return {WideInt::from_digits(record + dropped, format.sum_digits - dropped),
          WideInt::from_digits(record + format.sum_digits + 2 * dropped, format.product_digits - 2 * dropped),
          unit, 2 * unit};
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
  return !holds_window_sums(record, format) &&
         (record[format.sum_flags()] | record[format.product_flags()]) != 0;
}

// Σa·b − mean·Σa; none where the two lie too far apart.
template <int kSum, int kProduct>
std::optional<double> centred(const FixedSums<kSum, kProduct>& sums, const Parts& mean) {
  constexpr int kWords = kProduct + 2;
  const FixedInt<kSum + 1> mean_times_sum = FixedInt<1>::of(mean.significand) * sums.sum;
  const int above = mean.exponent + sums.sum_unit - sums.product_unit;
  if (above >= 0 && above < 128) {
    return (sums.product.template widened<kWords>() -
            mean_times_sum.shifted(above).template widened<kWords>())
        .to_double(sums.product_unit);
  }
  if (above < 0 && above > -128) {
    return (sums.product.shifted(-above) - mean_times_sum.template widened<kWords>())
        .to_double(mean.exponent + sums.sum_unit);
  }
  return std::nullopt;
}

// count·Σa·b − (Σa)², of products in units of the sum's squared.
template <int kSum, int kProduct>
double second_moment(const FixedSums<kSum, kProduct>& sums, std::int64_t count) {
  const FixedInt<kProduct + 1> product = FixedInt<1>::of(count) * sums.product;
  return (product - (sums.sum * sums.sum).template widened<kProduct + 1>()).to_double(sums.product_unit);
}

double rounded_product(const std::int64_t* record, const SumFormat& format) {
  if (record[format.product_flags()] != 0) return special_value(record[format.product_flags()]);
  const WideSums sums = wide_sums(record, format);
  return sums.product.to_double(sums.product_unit);
}

}  // namespace

double rounded_sum(const std::int64_t* record, const SumFormat& format) {
  if (holds_window_sums(record, format)) {
    const ShortSums sums = short_sums(record);
    return sums.sum.to_double(sums.sum_unit);
  }
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
  std::optional<double> result;
  FewDigits digits;
  if (holds_window_sums(record, format)) {
    result = centred(short_sums(record), parts);
  } else if (few_digits(record, format, digits)) {
    result = centred(digits.sums(), parts);
  }
  if (result) return *result;
  const WideSums wide = wide_sums(record, format);
  const WideInt mean_times_sum = WideInt(parts.significand) * wide.sum;
  if (mean_times_sum.is_zero()) return wide.product.to_double(wide.product_unit);
  const int unit = parts.exponent + wide.sum_unit;
  const int above = unit - wide.product_unit;
  return above >= 0 ? (wide.product - mean_times_sum.shifted(above)).to_double(wide.product_unit)
                    : (wide.product.shifted(-above) - mean_times_sum).to_double(unit);
}

Statistics statistics(const std::int64_t* record, const SumFormat& format, std::int64_t count, double eps) {
  const auto n = static_cast<double>(count);
  double s1 = 0;
  double m2 = std::numeric_limits<double>::quiet_NaN();
  Statistics result{};
  const auto set = [&](const auto& sums) {
    s1 = sums.sum.to_double(sums.sum_unit);
    m2 = second_moment(sums, count);
  };
  FewDigits digits;
  if (holds_window_sums(record, format)) {
    set(short_sums(record));
  } else if (is_special(record, format)) {
    s1 = rounded_sum(record, format);
  } else if (few_digits(record, format, digits)) {
    set(digits.sums());
  } else {
    const WideSums wide = wide_sums(record, format);
    s1 = wide.sum.to_double(wide.sum_unit);
    m2 = (WideInt(count) * wide.product - wide.sum * wide.sum).to_double(wide.product_unit);
  }
  result.mean = s1 / n;
  const double m2_over_n = m2 / n;
  result.var = m2_over_n / n;
  result.var_unbiased = m2_over_n / (n - 1);
  result.invstd = inverse_std(result.var, eps);
  return result;
}

}  // namespace syncbn::exact
