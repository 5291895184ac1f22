#include "exact/finish.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "exact/wide_int.h"

static_assert(FLT_EVAL_METHOD == 0, "every operation must round to its own type");

namespace syncbn::exact {
namespace {

// The integers of a record without the digits that both sums have zero at their low end: digit 2j of Σa·b
// weighs digit j of Σa squared, so dropping j of the one and 2j of the other keeps the pair in step. Ordinary
// data needs 2 to 4 words.
struct Sums {
  WideInt sum;
  WideInt product;
  int unit;  // sum counts in 2^unit, product in 2^(2·unit)
};

Sums sums_of(const std::int64_t* record, const SumFormat& format) {
  const std::int64_t* sum = record;
  const std::int64_t* product = record + format.sum_digits;
  const auto zero = [](std::int64_t digit) { return digit == 0; };
  const auto sum_low = std::find_if_not(sum, sum + format.sum_digits, zero) - sum;
  const auto product_low = std::find_if_not(product, product + format.product_digits, zero) - product;
  const int dropped =
      static_cast<int>(std::min({sum_low, product_low / 2, std::ptrdiff_t{format.sum_digits - 1}}));
  return {WideInt::from_digits(sum + dropped, format.sum_digits - dropped),
          WideInt::from_digits(product + 2 * dropped, format.product_digits - 2 * dropped),
          format.unit + kDigitBits * dropped};
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
  return WideInt::from_digits(record, format.sum_digits).to_double(format.unit);
}

double centred_product(const std::int64_t* record, const SumFormat& format, double mean) {
  if (is_special(record, format) || !std::isfinite(mean)) {
    const double correction = mean * rounded_sum(record, format);
    return rounded_product(record, format) - correction;
  }
  const Sums sums = sums_of(record, format);
  int exponent = 0;
  const auto significand = static_cast<std::int64_t>(std::ldexp(std::frexp(mean, &exponent), 53));
  exponent -= 53;  // mean = significand · 2^exponent; the product's unit is 2^(exponent + unit)
  const WideInt mean_times_sum = WideInt(significand) * sums.sum;
  if (mean_times_sum.is_zero()) return sums.product.to_double(2 * sums.unit);
  const int above = exponent - sums.unit;
  return above >= 0 ? (sums.product - mean_times_sum.shifted(above)).to_double(2 * sums.unit)
                    : (sums.product.shifted(-above) - mean_times_sum).to_double(exponent + sums.unit);
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
    const Sums sums = sums_of(record, format);
    result.mean = sums.sum.to_double(sums.unit) / n;
    m2 = (WideInt(count) * sums.product - sums.sum * sums.sum).to_double(2 * sums.unit);
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
