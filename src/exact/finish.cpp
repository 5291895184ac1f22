// SPDX-License-Identifier: Apache-2.0
#include "exact/finish.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <optional>

#include "exact/fixed_int.h"
#include "exact/parts.h"

static_assert(FLT_EVAL_METHOD == 0, "every operation must round to its own type");

namespace syncbn::exact {
namespace {

// The integers of a record: `sum` counts in 2^sum_unit, `product` in 2^product_unit. Low digits that are zero
// in both sums are left out. Digit 2j of Σa·b has the weight of digit j of Σa, squared. So j digits of Σa and
// 2j digits of Σa·b are dropped together.
template <class Sum, class Product>
struct Integers {
  Sum sum;
  Product product;
  int sum_unit, product_unit;
};
// Integers of fixed size, for ordinary data.
template <int kSum, int kProduct>
using FixedSums = Integers<FixedInt<kSum>, FixedInt<kProduct>>;
// Ordinary data needs three digits of Σa and six of Σa·b.
constexpr int kDigits = 3;
using DigitSums = FixedSums<3, 5>;
using ShortSums = FixedSums<1, 2>;

SYNCBN_DEVICE ShortSums short_sums(const WindowSums& sums) {
  return {FixedInt<1>::of(sums.sum), FixedInt<2>::of(sums.product()), sums.sum_unit, sums.product_unit};
}

// Number of digits of Σa that can be dropped, with twice as many digits of Σa·b.
// Takes the record by reference, as do the functions below. GCC read a copy as one vector, which waited for
// the stores of its two words (10 ns a channel, AVX-512).
SYNCBN_DEVICE int low_zeros(const ConstRecord& record) {
  const std::int64_t *sum = record.sum(), *product = record.product();
  int j = 0;
  while (j + 1 < record.format().sum_digits && (sum[j] | product[2 * j] | product[2 * j + 1]) == 0) ++j;
  return j;
}

// Copies kCount digits, starting at `first`, and fills up with zeros. Returns false if nonzero digits are
// left.
template <int kCount>
SYNCBN_DEVICE bool copy_digits(const std::int64_t* digits, int first, int count,
                               std::int64_t (&copied)[kCount]) {
  for (int i = 0; i < kCount; ++i) copied[i] = first + i < count ? digits[first + i] : 0;
  std::int64_t above = 0;
  for (int i = first + kCount; i < count; ++i) above |= digits[i];
  return above == 0;
}

// The digits of ordinary data.
struct FewDigits {
  std::int64_t sum[kDigits], product[2 * kDigits];
  int unit;

  // The caller converts at the place of use. Copying integers that were just written took 20 of 70 ns a
  // channel (Zen 4).
  SYNCBN_DEVICE DigitSums sums() const {
    return {FixedInt<3>::from_digits(sum), FixedInt<5>::from_digits(product), unit, 2 * unit};
  }
};

// Returns false if the record has more digits than ordinary data.
SYNCBN_DEVICE bool few_digits(const ConstRecord& record, FewDigits& digits) {
  const SumFormat& format = record.format();
  const int dropped = low_zeros(record);
  digits.unit = format.unit + kDigitBits * dropped;
  return copy_digits(record.sum(), dropped, format.sum_digits, digits.sum) &&
         copy_digits(record.product(), 2 * dropped, format.product_digits, digits.product);
}

// The units of a record's integers, which are set to work.sum and work.product.
struct Units {
  int sum, product;
};
SYNCBN_DEVICE Units set_sums(const ConstRecord& record, WideWork& work) {
  if (record.form() == Form::window_sums) {
    const ShortSums sums = short_sums(record.window_sums());
    work.sum.set_words(sums.sum.words, 1, sums.sum.negative);
    work.product.set_words(sums.product.words, 2, sums.product.negative);
    return {sums.sum_unit, sums.product_unit};
  }
  const SumFormat& format = record.format();
  const int dropped = low_zeros(record);
  const int unit = format.unit + kDigitBits * dropped;
  work.sum.set_digits(record.sum() + dropped, format.sum_digits - dropped);
  work.product.set_digits(record.product() + 2 * dropped, format.product_digits - 2 * dropped);
  return {unit, 2 * unit};
}

// Σa·b − mean·Σa, rounded once. Returns nothing if the two lie too far apart for fixed integers.
template <int kSum, int kProduct>
SYNCBN_DEVICE std::optional<double> centred(const FixedSums<kSum, kProduct>& sums, const Parts& mean) {
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

// count·Σa·b − (Σa)², rounded once. The product's unit is the square of the sum's.
template <int kSum, int kProduct>
SYNCBN_DEVICE double second_moment(const FixedSums<kSum, kProduct>& sums, std::int64_t count) {
  const FixedInt<kProduct + 1> product = FixedInt<1>::of(count) * sums.product;
  return (product - (sums.sum * sums.sum).template widened<kProduct + 1>()).to_double(sums.product_unit);
}

// Whether |value| · 2^bits stays below 2^126, so that a difference of two such values fits 128 bits.
SYNCBN_DEVICE bool has_room(__int128 value, int bits) {
  return bits <= 126 && (value >> (126 - bits)) == (value >> 127);
}

// The same of window sums, if they are so small that all fits 128 bits: half of the time.
SYNCBN_DEVICE std::optional<double> centred(const WindowSums& sums, const Parts& mean) {
  const __int128 mean_times_sum = static_cast<__int128>(mean.significand) * sums.sum;
  const __int128 product = sums.product();
  if (mean_times_sum == 0) return FixedInt<2>::of(product).to_double(sums.product_unit);
  const int unit = mean.exponent + sums.sum_unit;
  const int above = unit - sums.product_unit;
  const int up = std::max(-above, 0), mean_up = std::max(above, 0);
  if (!has_room(product, up) || !has_room(mean_times_sum, mean_up)) return std::nullopt;
  const __int128 difference =
      product * (static_cast<__int128>(1) << up) - mean_times_sum * (static_cast<__int128>(1) << mean_up);
  return FixedInt<2>::of(difference).to_double(std::min(unit, sums.product_unit));
}
SYNCBN_DEVICE std::optional<double> second_moment(const WindowSums& sums, std::int64_t count) {
  const __int128 product = sums.product();
  const __int128 square = static_cast<__int128>(sums.sum) * sums.sum;
  const int bits = 64 - std::countl_zero(static_cast<std::uint64_t>(count));
  if (!has_room(product, bits) || !has_room(square, 0)) return std::nullopt;
  return FixedInt<2>::of(product * count - square).to_double(sums.product_unit);
}

SYNCBN_DEVICE double rounded_product(const ConstRecord& record, WideWork& work) {
  if (record.form() == Form::digits && record.product_flags() != 0)
    return special_value(record.product_flags());
  const Units units = set_sums(record, work);
  return work.product.to_double(units.product);
}

// From S1 and m2, both rounded.
SYNCBN_DEVICE Statistics statistics_of(double s1, double m2, std::int64_t count, double eps) {
  const auto n = static_cast<double>(count);
  Statistics result{};
  result.mean = s1 / n;
  const double m2_over_n = m2 / n;
  result.var = m2_over_n / n;
  result.var_unbiased = m2_over_n / (n - 1);
  result.invstd = inverse_std(result.var, eps);
  return result;
}

}  // namespace

SYNCBN_DEVICE bool ordinary_sum(ConstRecord record, double& result) {
  if (record.form() == Form::window_sums) {
    const ShortSums sums = short_sums(record.window_sums());
    result = sums.sum.to_double(sums.sum_unit);
    return true;
  }
  if (record.sum_flags() != 0) {
    result = special_value(record.sum_flags());
    return true;
  }
  const SumFormat& format = record.format();
  int low = 0;
  while (low + 1 < format.sum_digits && record.sum()[low] == 0) ++low;
  std::int64_t digits[kDigits];
  if (!copy_digits(record.sum(), low, format.sum_digits, digits)) return false;
  result = FixedInt<3>::from_digits(digits).to_double(format.unit + kDigitBits * low);
  return true;
}

SYNCBN_DEVICE double wide_sum(ConstRecord record, WideWork& work) {
  double result = 0;
  if (ordinary_sum(record, result)) return result;
  work.sum.set_digits(record.sum(), record.format().sum_digits);
  return work.sum.to_double(record.format().unit);
}

SYNCBN_DEVICE bool ordinary_centred_product(ConstRecord record, double mean, double& result) {
  if (record.is_special() || !std::isfinite(mean)) return false;
  const Parts parts = parts_of(mean);
  std::optional<double> made;
  FewDigits digits;
  if (record.form() == Form::window_sums) {
    const WindowSums sums = record.window_sums();
    made = centred(sums, parts);
    if (!made) made = centred(short_sums(sums), parts);
  } else if (few_digits(record, digits)) {
    made = centred(digits.sums(), parts);
  }
  if (made) result = *made;
  return made.has_value();
}

SYNCBN_DEVICE double wide_centred_product(ConstRecord record, double mean, WideWork& work) {
  if (record.is_special() || !std::isfinite(mean)) {
    const double correction = mean * wide_sum(record, work);
    return rounded_product(record, work) - correction;
  }
  const Parts parts = parts_of(mean);
  const Units units = set_sums(record, work);
  work.factor.set(parts.significand);
  WideInt& mean_times_sum = work.left;
  mean_times_sum.set_product(work.factor, work.sum);
  if (mean_times_sum.is_zero()) return work.product.to_double(units.product);
  const int unit = parts.exponent + units.sum;
  const int above = unit - units.product;
  if (above >= 0) {
    work.right.set_shifted(mean_times_sum, above);
    work.factor.set_difference(work.product, work.right);
    return work.factor.to_double(units.product);
  }
  work.right.set_shifted(work.product, -above);
  work.factor.set_difference(work.right, mean_times_sum);
  return work.factor.to_double(unit);
}

SYNCBN_DEVICE bool ordinary_statistics(ConstRecord record, std::int64_t count, double eps,
                                       Statistics& result) {
  FewDigits digits;
  double s1 = 0, m2 = 0;
  const auto round = [&](const auto& sums) {
    s1 = sums.sum.to_double(sums.sum_unit);
    m2 = second_moment(sums, count);
  };
  if (record.form() == Form::window_sums) {
    const WindowSums sums = record.window_sums();
    if (const std::optional<double> moment = second_moment(sums, count)) {
      s1 = FixedInt<1>::of(sums.sum).to_double(sums.sum_unit);
      m2 = *moment;
    } else {
      round(short_sums(sums));
    }
  } else if (!record.is_special() && few_digits(record, digits)) {
    round(digits.sums());
  } else {
    return false;
  }
  result = statistics_of(s1, m2, count, eps);
  return true;
}

SYNCBN_DEVICE Statistics wide_statistics(ConstRecord record, std::int64_t count, double eps, WideWork& work) {
  if (record.is_special()) {
    return statistics_of(wide_sum(record, work), std::numeric_limits<double>::quiet_NaN(), count, eps);
  }
  const Units units = set_sums(record, work);
  const double s1 = work.sum.to_double(units.sum);
  work.factor.set(count);
  work.left.set_product(work.factor, work.product);
  work.right.set_product(work.sum, work.sum);
  work.factor.set_difference(work.left, work.right);
  return statistics_of(s1, work.factor.to_double(units.product), count, eps);
}

double rounded_sum(ConstRecord record) {
  double result = 0;
  if (ordinary_sum(record, result)) return result;
  WideWork work;
  return wide_sum(record, work);
}

double centred_product(ConstRecord record, double mean) {
  double result = 0;
  if (ordinary_centred_product(record, mean, result)) return result;
  WideWork work;
  return wide_centred_product(record, mean, work);
}

Statistics statistics(ConstRecord record, std::int64_t count, double eps) {
  Statistics result;
  if (ordinary_statistics(record, count, eps, result)) return result;
  WideWork work;
  return wide_statistics(record, count, eps, work);
}

}  // namespace syncbn::exact
