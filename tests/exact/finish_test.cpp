// SPDX-License-Identifier: Apache-2.0

// The finish of the exact sums against exact dyadic numbers by GMP, each rounding by the oracle's.
//
// control: fl64(S2)·n - fl64(S1)² in place of the exact m2, the digits of Σa·b dropped singly instead of in
// pairs, mean·fl64(A) in place of mean·A in centred_product, and std::fma in running_update: each makes a
// test here fail.

#include "exact/finish.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "exact/digits.h"
#include "oracle/number.h"

namespace syncbn::exact {
namespace {

using oracle::Dyadic;
using oracle::dyadic;
using oracle::Type;

constexpr DType kDTypes[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double fl64(const Dyadic& value) { return oracle::round_to(Type::float64, value); }
template <class T>
T narrow(const Dyadic& value) {
  return static_cast<T>(oracle::round_to(std::is_same_v<T, float> ? Type::float32 : Type::float64, value));
}

// Values of a channel, finite numbers of `dtype` as doubles.
std::vector<double> draw(DType dtype, int kind, std::size_t count, std::mt19937_64& random) {
  const auto type = static_cast<Type>(static_cast<int>(dtype));
  std::vector<double> values;
  while (values.size() < count) {
    const double noise = static_cast<double>(random() >> 11) * 0x1p-53 - 0.5;
    double value = noise;                                                                   // 0: ordinary
    if (kind == 1) value = oracle::decode(type, random() >> (64 - oracle::bits_of(type)));  // any bits
    if (kind == 2) value = 60000 + noise;                                                   // a large mean
    if (kind == 3) value = dtype == DType::float16 ? 7.5 : 0.1;                             // constant
    if (kind == 4) value = oracle::decode(type, random() % 64);       // the smallest subnormals
    if (kind == 5 && values.size() % 2 == 1) value = -values.back();  // the sum is zero
    value = oracle::round_to(type, value);
    if (std::isfinite(value)) values.push_back(value);
  }
  if (kind == 5 && count % 2 == 1) values.back() = 0;
  return values;
}
constexpr int kKinds = 6;

// A record of Σa and Σa·b, digits overlapping.
struct Sums {
  Dyadic sum, product;
  std::vector<std::int64_t> words;
  const SumFormat& format;
  ConstRecord record() const { return {words.data(), format}; }
};
Sums sums_of(const std::vector<double>& a, const std::vector<double>& b, const SumFormat& format,
             std::mt19937_64& random) {
  Sums result{{}, {}, {}, format};
  for (std::size_t i = 0; i < a.size(); ++i) {
    result.sum = result.sum + dyadic(a[i]);
    result.product = result.product + dyadic(a[i]) * dyadic(b[i]);
  }
  const auto in_units = [](Dyadic value, int unit) {
    return value.exponent >= unit
               ? mpz_class(value.significand << static_cast<mp_bitcnt_t>(value.exponent - unit))
               : mpz_class(value.significand >> static_cast<mp_bitcnt_t>(unit - value.exponent));
  };
  result.words.resize(static_cast<std::size_t>(format.words()));
  const std::span record(result.words);
  const auto sum_digits = static_cast<std::size_t>(format.sum_digits);
  write_digits(in_units(result.sum, format.unit), record.first(sum_digits), random);
  write_digits(in_units(result.product, 2 * format.unit),
               record.subspan(sum_digits, static_cast<std::size_t>(format.product_digits)), random);
  if (random() % 2 == 0) Record(result.words.data(), format).propagate_carries();
  return result;
}

template <class Body>
void for_each_batch(int seed, const Body& body) {
  std::mt19937_64 random(static_cast<unsigned>(seed));
  for (const DType dtype : kDTypes) {
    for (int kind = 0; kind < kKinds; ++kind) {
      for (const std::size_t count : {1U, 2U, 3U, 10U, 101U}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + ", kind " + std::to_string(kind) + ", " +
                     std::to_string(count) + " elements");
        body(dtype, draw(dtype, kind, count, random), random);
      }
    }
  }
}

TEST(Finish, Statistics) {
  for_each_batch(1, [](DType dtype, const std::vector<double>& x, std::mt19937_64& random) {
    const SumFormat& format = sum_format(dtype);
    const Sums sums = sums_of(x, x, format, random);
    const auto count = static_cast<std::int64_t>(x.size());
    const auto n = static_cast<double>(count);
    const double m2 = fl64(dyadic(n) * sums.product - sums.sum * sums.sum);
    ASSERT_GE(m2, 0);
    for (const double eps : {1e-5, 0.0, 1e300}) {
      const Statistics s = statistics(sums.record(), count, eps);
      EXPECT_EQ(bits(fl64(sums.sum) / n), bits(s.mean));
      EXPECT_EQ(bits(m2 / n / n), bits(s.var));
      EXPECT_EQ(bits(m2 / n / (n - 1)), bits(s.var_unbiased));
      EXPECT_EQ(bits(1 / std::sqrt(m2 / n / n + eps)), bits(s.invstd));
    }
    EXPECT_EQ(bits(fl64(sums.sum)), bits(rounded_sum(sums.record())));
  });
}

TEST(Finish, CentredProduct) {
  for_each_batch(2, [](DType dtype, const std::vector<double>& x, std::mt19937_64& random) {
    const SumFormat& format = sum_format(dtype);
    const std::vector<double> dy = draw(dtype, static_cast<int>(random() % kKinds), x.size(), random);
    const Sums sums = sums_of(dy, x, format, random);
    const double own = fl64(sums.product) / fl64(sums.sum);  // nearly everything cancels
    for (const double mean : {0.0, -0.0, 1.0, -0.1, 1e300, -1e300, 1e-310, -1e-310, 5e-324, own,
                              std::numeric_limits<double>::max(), std::numeric_limits<double>::min()}) {
      if (!std::isfinite(mean)) continue;
      EXPECT_EQ(bits(fl64(sums.product - dyadic(mean) * sums.sum)),
                bits(centred_product(sums.record(), mean)))
          << "mean " << mean;
    }
  });
}

// One element in a channel of many: the statistics of float64's extremes.
TEST(Finish, LargestCount) {
  std::mt19937_64 random(3);
  for (const DType dtype : kDTypes) {
    const SumFormat& format = sum_format(dtype);
    const double value = dtype == DType::float16 ? 65504.0 : dtype == DType::float64 ? 0x1p1023 : 0x1p127;
    Sums sums = sums_of({value}, {value}, format, random);
    const std::int64_t count = std::int64_t{1} << 48;
    for (std::size_t i = 0; i < sums.words.size(); ++i) sums.words[i] *= 3;
    const auto n = static_cast<double>(count);
    const Dyadic three = dyadic(3.0);
    const double m2 = fl64(dyadic(n) * three * sums.product - three * sums.sum * three * sums.sum);
    const Statistics s = statistics(sums.record(), count, 1e-5);
    EXPECT_EQ(bits(fl64(three * sums.sum) / n), bits(s.mean)) << name_of(dtype);
    EXPECT_EQ(bits(m2 / n / n), bits(s.var)) << name_of(dtype);
  }
}

TEST(Finish, SpecialSums) {
  std::mt19937_64 random(4);
  const double nan = std::nan("");
  const struct {
    std::int64_t flags;
    double value;
  } sums[] = {{kNan, nan}, {kPlusInf, kInfinity}, {kMinusInf, -kInfinity}, {kPlusInf | kMinusInf, nan}};
  for (const DType dtype : kDTypes) {
    const SumFormat& format = sum_format(dtype);
    Sums made = sums_of({2.0, 1.0}, {4.0, 0.5}, format, random);  // A = 3, B = 8.5
    const ConstRecord record = made.record();
    std::int64_t &sum_flags = *(made.words.end() - 2), &product_flags = made.words.back();
    EXPECT_EQ(bits(nan), bits(centred_product(record, nan)));
    EXPECT_EQ(bits(-kInfinity), bits(centred_product(record, kInfinity)));
    EXPECT_EQ(bits(kInfinity), bits(centred_product(record, -kInfinity)));
    for (const auto& a : sums) {
      sum_flags = a.flags;
      product_flags = kNan;
      EXPECT_EQ(bits(a.value), bits(rounded_sum(record)));
      const Statistics s = statistics(record, 2, 1e-5);
      EXPECT_EQ(bits(a.value), bits(s.mean));
      for (const double value : {s.var, s.var_unbiased, s.invstd}) EXPECT_TRUE(std::isnan(value));
      product_flags = 0;
      EXPECT_EQ(bits(8.5 - 2.0 * a.value), bits(centred_product(record, 2.0)));
      EXPECT_EQ(bits(8.5 - 0.0 * a.value), bits(centred_product(record, 0.0)));
    }
    sum_flags = 0;
    for (const auto& b : sums) {
      product_flags = b.flags;
      EXPECT_EQ(bits(b.value), bits(centred_product(record, 2.0)));
      EXPECT_EQ(bits(b.value - kInfinity), bits(centred_product(record, kInfinity)));
      EXPECT_EQ(3.0, rounded_sum(record));
    }
  }
}

double any_number(std::mt19937_64& random) {
  const double value = static_cast<double>(random() >> 11) * 0x1p-53 - 0.5;
  return std::ldexp(value, static_cast<int>(random() % 40) - 20);
}

TEST(Finish, RunningUpdate) {
  std::mt19937_64 random(5);
  for (int k = 0; k < 1000; ++k) {
    const double running = any_number(random), batch = any_number(random);
    const double factor = static_cast<double>(random() >> 11) * 0x1p-53;
    const double keep = fl64(dyadic(1.0) - dyadic(factor));
    const double kept = fl64(dyadic(keep) * dyadic(running));
    const double added = fl64(dyadic(factor) * dyadic(batch));
    EXPECT_EQ(bits(fl64(dyadic(kept) + dyadic(added))), bits(running_update(running, batch, factor)));
  }
}

template <class T>
void expect_coefficients() {
  std::mt19937_64 random(6);
  const auto negative = [](double value) { return -value; };
  for (int k = 0; k < 1000; ++k) {
    const double mean = any_number(random), invstd = std::fabs(any_number(random)),
                 scale = any_number(random), bias = any_number(random);
    const T mean_hi = narrow<T>(dyadic(mean));
    const double mean_lo = fl64(dyadic(mean) - dyadic(static_cast<double>(mean_hi)));
    const auto forward = forward_coefficients<T>(mean, scale, bias);
    const double correction = fl64(dyadic(mean_lo) * dyadic(scale));
    EXPECT_EQ(mean_hi, forward.mean_hi);
    EXPECT_EQ(narrow<T>(dyadic(scale)), forward.k);
    EXPECT_EQ(narrow<T>(dyadic(fl64(dyadic(bias) - dyadic(correction)))), forward.shift);

    const double a = any_number(random), d = any_number(random), n = 1 + static_cast<double>(random() % 1000);
    const auto backward = backward_coefficients<T>(mean, invstd, scale, a, d, n);
    const double slope = fl64(dyadic(scale) * dyadic(fl64(dyadic(invstd) * dyadic(invstd))));
    const double c2 = fl64(dyadic(negative(slope)) * dyadic(d / n));
    const double level = fl64(dyadic(scale) * dyadic(a / n));
    const double lifted = fl64(dyadic(c2) * dyadic(mean_lo));
    EXPECT_EQ(mean_hi, backward.mean_hi);
    EXPECT_EQ(narrow<T>(dyadic(scale)), backward.k);
    EXPECT_EQ(narrow<T>(dyadic(c2)), backward.c2);
    EXPECT_EQ(narrow<T>(dyadic(fl64(dyadic(negative(level)) - dyadic(lifted)))), backward.c1);
  }
}
TEST(Finish, CoefficientsInFloat) { expect_coefficients<float>(); }
TEST(Finish, CoefficientsInDouble) { expect_coefficients<double>(); }

}  // namespace
}  // namespace syncbn::exact
