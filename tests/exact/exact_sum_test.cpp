// SPDX-License-Identifier: Apache-2.0

// Digits and flags against GMP.
//
// control: add_scaled with the sign dropped on the second digit (`value < 0 && i == first`), or
// propagate_carries rounding down instead of to nearest (no radix / 2), makes these tests fail.

#include "exact/exact_sum.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "exact/digits.h"
#include "oracle/number.h"

namespace syncbn::exact {
namespace {

using Digits = std::vector<std::int64_t>;

constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

mpz_class scaled(std::int64_t value, int shift) {
  return mpz_class(static_cast<long>(value)) * power_of_two(shift);
}

TEST(ExactSum, AddScaled) {
  std::mt19937_64 random(1);
  const std::int64_t values[] = {0, 1, -1, kMin, kMax, (std::int64_t{1} << 47) - 1, -(std::int64_t{1} << 47)};
  for (int shift = 0; shift < 4 * kDigitBits; ++shift) {
    for (std::size_t k = 0; k < 20; ++k) {
      const std::int64_t value =
          k < std::size(values) ? values[k] : static_cast<std::int64_t>(random()) >> (random() % 64);
      SCOPED_TRACE(std::to_string(value) + " << " + std::to_string(shift));
      Digits digits(7);
      for (std::int64_t& digit : digits) digit = static_cast<std::int64_t>(random()) >> 20;
      const Digits before = digits;
      add_scaled(digits.data(), value, shift);
      EXPECT_EQ(integer(before) + scaled(value, shift), integer(digits));
      int touched = 0;
      for (std::size_t i = 0; i < digits.size(); ++i) {
        touched += digits[i] != before[i] ? 1 : 0;
        EXPECT_LT(std::abs(digits[i] - before[i]), std::int64_t{1} << kDigitBits) << i;
      }
      EXPECT_LE(touched, 3);
    }
  }
}

// The sanitized build traps an overflow here.
TEST(ExactSum, AddsBeforeCarry) {
  for (const std::int64_t value : {kMax, kMin}) {
    Digits digits(5, value > 0 ? (std::int64_t{1} << 46) - 1 : -(std::int64_t{1} << 46));
    const mpz_class before = integer(digits);
    for (int k = 0; k < kAddsBeforeCarry; ++k) add_scaled(digits.data(), value, kDigitBits - 1);
    EXPECT_EQ(before + kAddsBeforeCarry * scaled(value, kDigitBits - 1), integer(digits));
    propagate_carries(digits.data(), 5);
    EXPECT_EQ(before + kAddsBeforeCarry * scaled(value, kDigitBits - 1), integer(digits));
  }
}

TEST(ExactSum, PropagateCarries) {
  std::mt19937_64 random(2);
  for (const std::size_t count : {1U, 2U, 3U, 7U, 13U, 46U, 91U}) {
    for (int k = 0; k < 50; ++k) {
      Digits digits(count);
      for (std::int64_t& digit : digits) digit = static_cast<std::int64_t>(random()) / 2;
      const mpz_class value = integer(digits);
      propagate_carries(digits.data(), static_cast<int>(count));
      EXPECT_EQ(value, integer(digits));
      for (std::size_t i = 0; i + 1 < count; ++i) {
        EXPECT_GE(digits[i], -(std::int64_t{1} << 46)) << i;
        EXPECT_LT(digits[i], std::int64_t{1} << 46) << i;
      }
      // One form for each value: however it was written before.
      Digits again(count);
      write_digits(value, again, random);
      propagate_carries(again.data(), static_cast<int>(count));
      EXPECT_EQ(digits, again);
    }
  }
}

TEST(ExactSum, RowsOfManyRanksCanBeAdded) {
  constexpr std::int64_t ranks = 1 << 16;
  for (const std::int64_t digit : {-(std::int64_t{1} << 46), (std::int64_t{1} << 46) - 1}) {
    Digits sum(7, digit);
    propagate_carries(sum.data(), 7);
    const mpz_class one = integer(sum);
    for (std::int64_t& word : sum) ASSERT_FALSE(__builtin_mul_overflow(word, ranks, &word));
    EXPECT_EQ(one * ranks, integer(sum));
  }
}

TEST(ExactSum, Flags) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(kNan, flag_of(std::nan("")));
  EXPECT_EQ(kPlusInf, flag_of(infinity));
  EXPECT_EQ(kMinusInf, flag_of(-infinity));
  for (const std::int64_t ranks : {1, 2, 1 << 16}) {
    EXPECT_TRUE(std::isnan(special_value(ranks * kNan)));
    EXPECT_EQ(infinity, special_value(ranks * kPlusInf));
    EXPECT_EQ(-infinity, special_value(ranks * kMinusInf));
    EXPECT_TRUE(std::isnan(special_value(ranks * kPlusInf + kMinusInf)));
    EXPECT_TRUE(std::isnan(special_value(ranks * kMinusInf + kPlusInf)));
    EXPECT_TRUE(std::isnan(special_value(ranks * (kNan + kPlusInf))));
    EXPECT_TRUE(std::isnan(special_value(kNan + ranks * kMinusInf)));
    EXPECT_TRUE(std::isnan(special_value(ranks * (kNan + kPlusInf + kMinusInf))));
  }
}

// Every value is a whole number of units, and 2^53 of the largest fit.
TEST(ExactSum, FormatsHoldTheirTypes) {
  std::mt19937_64 random(4);
  constexpr struct {
    DType dtype;
    int smallest;  // exponents of the smallest subnormal
    int above;     // and of the first power of two above the largest number
  } types[] = {{DType::float16, -24, 16},
               {DType::bfloat16, -133, 128},
               {DType::float32, -149, 128},
               {DType::float64, -1074, 1024}};
  for (const auto& type : types) {
    SCOPED_TRACE(name_of(type.dtype));
    const SumFormat& format = sum_format(type.dtype);
    EXPECT_LE(format.unit, type.smallest);
    for (const int sign : {1, -1}) {
      Digits sum(static_cast<std::size_t>(format.sum_digits));
      write_digits(sign * power_of_two(type.above - format.unit + 53), sum, random);
      Digits product(static_cast<std::size_t>(format.product_digits));
      write_digits(sign * power_of_two(2 * (type.above - format.unit) + 53), product, random);
    }
  }
}

}  // namespace
}  // namespace syncbn::exact
