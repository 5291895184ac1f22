// SPDX-License-Identifier: Apache-2.0

// WideInt against GMP.
//
// control: with the carry dropped in operator* (carry = 0 after each word), the half bit's tail ignored in
// round() (below = false), or pack()'s retry for negative rows left out, these tests fail.

#include "exact/wide_int.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "exact/digits.h"
#include "oracle/number.h"

namespace syncbn::exact {
namespace {

using oracle::Type;

constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

WideInt wide(const mpz_class& value) {
  const mpz_class magnitude = abs(value);
  std::vector<std::int64_t> digits(mpz_sizeinbase(magnitude.get_mpz_t(), 2) / kDigitBits + 1);
  for (std::size_t i = 0; i < digits.size(); ++i) {
    mpz_class digit = magnitude >> (kDigitBits * i);
    mpz_fdiv_r_2exp(digit.get_mpz_t(), digit.get_mpz_t(), kDigitBits);
    digits[i] = value < 0 ? -digit.get_si() : digit.get_si();
  }
  return WideInt::from_digits(digits.data(), static_cast<int>(digits.size()));
}

// All bits of a WideInt: its leading part is taken off, 53 bits at a time.
mpz_class integer(WideInt rest) {
  mpz_class value = 0;
  for (int pieces = 0; !rest.is_zero() && pieces < 200; ++pieces) {
    int scale = 0;
    while (!std::isfinite(rest.to_double(-scale))) scale += 500;
    int exponent = 0;
    auto significand =
        static_cast<std::int64_t>(std::ldexp(std::frexp(rest.to_double(-scale), &exponent), 53));
    exponent += scale - 53;
    if (exponent < 0) {
      significand /= std::int64_t{1} << -exponent;
      exponent = 0;
    }
    value += mpz_class(static_cast<long>(significand)) << static_cast<mp_bitcnt_t>(exponent);
    rest = rest - WideInt(significand).shifted(exponent);
  }
  return value;
}

void expect_equal(const mpz_class& expected, const WideInt& actual) {
  EXPECT_EQ(expected, integer(actual));
  EXPECT_EQ(expected == 0, actual.is_zero());
  EXPECT_EQ(expected < 0, actual.is_negative());
}

TEST(WideInt, FromInt64) {
  for (const std::int64_t value : {std::int64_t{0}, std::int64_t{1}, std::int64_t{-1}, kMin, kMax}) {
    expect_equal(static_cast<long>(value), WideInt(value));
  }
  expect_equal(0, WideInt());
}

TEST(WideInt, FromDigits) {
  std::mt19937_64 random(1);
  for (const std::size_t count : {1U, 2U, 3U, 7U, 13U, 46U, 91U}) {
    std::vector<std::vector<std::int64_t>> rows = {std::vector<std::int64_t>(count, 0),
                                                   std::vector<std::int64_t>(count, kMin),
                                                   std::vector<std::int64_t>(count, kMax)};
    for (const std::int64_t digit : {std::int64_t{1}, std::int64_t{-1}, kMin, kMax}) {
      for (const std::size_t at : {std::size_t{0}, count / 2, count - 1}) {
        rows.emplace_back(count, 0);
        rows.back()[at] = digit;
      }
    }
    for (int k = 0; k < 50; ++k) {
      rows.emplace_back(count);
      for (std::int64_t& digit : rows.back()) digit = static_cast<std::int64_t>(random());
      if (k % 2 == 0) rows.back()[count - 1] = -(k / 4);  // the sign comes from far below
    }
    for (const auto& row : rows) {
      SCOPED_TRACE(::testing::PrintToString(row));
      expect_equal(exact::integer(row), WideInt::from_digits(row.data(), static_cast<int>(count)));
    }
  }
}

TEST(WideInt, Arithmetic) {
  std::mt19937_64 random(2);
  const int sizes[] = {1, 40, 63, 64, 65, 127, 128, 129, 500, 2150};
  for (const int a_bits : sizes) {
    for (const int b_bits : sizes) {
      for (int k = 0; k < 10; ++k) {
        const mpz_class a = random_integer(a_bits, random);
        const mpz_class b = k == 9 ? a : k == 8 ? mpz_class(-a) : random_integer(b_bits, random);
        SCOPED_TRACE(a.get_str(16) + " and " + b.get_str(16));
        expect_equal(a * b, wide(a) * wide(b));
        expect_equal(a - b, wide(a) - wide(b));
        expect_equal(b - a, wide(b) - wide(a));
      }
    }
  }
}

TEST(WideInt, Shifted) {
  std::mt19937_64 random(3);
  for (const int shift : {0, 1, 47, 63, 64, 65, 128, 1000, 2044}) {
    for (const int size : {1, 64, 65, 2204}) {
      const mpz_class a = random_integer(size, random);
      SCOPED_TRACE(a.get_str(16) + " << " + std::to_string(shift));
      expect_equal(a * power_of_two(shift), wide(a).shifted(shift));
    }
  }
  expect_equal(0, WideInt().shifted(100));
}

// The largest numbers that the statistics of float64 make: 2^53 elements of the largest magnitude.
TEST(WideInt, HoldsTheLargestSums) {
  const mpz_class n = power_of_two(53);
  const mpz_class largest = power_of_two(2098) - power_of_two(2045);  // in units of 2^-1074
  const mpz_class s1 = n * largest;
  const mpz_class s2 = n * largest * largest;
  expect_equal(n * s2, wide(n) * wide(s2));
  expect_equal(s1 * s1, wide(s1) * wide(s1));
  expect_equal(n * s2 + s1 * s1, wide(n) * wide(s2) - wide(-s1) * wide(s1));
}

// A significand of every length with a tail behind it, rounded at every place that matters.
TEST(WideInt, Rounding) {
  std::mt19937_64 random(4);
  for (const int precision : {24, 53}) {
    const Type type = precision == 24 ? Type::float32 : Type::float64;
    const int quantum = precision == 24 ? -149 : -1074;
    const int top = precision == 24 ? 128 : 1024;
    for (int k = 0; k < 4000; ++k) {
      // kept bits, then a tail: half, just below, just above, nothing, or anything.
      const int kept_bits = 1 + static_cast<int>(random() % (static_cast<unsigned>(precision) + 2));
      const int tail_bits = 1 + static_cast<int>(random() % 200);
      mpz_class kept = abs(random_integer(kept_bits, random)) + power_of_two(kept_bits - 1);
      if (random() % 4 == 0) kept = power_of_two(kept_bits) - 1;
      const mpz_class half = power_of_two(tail_bits - 1);
      const mpz_class tails[] = {0, half, half - 1, half + 1, abs(random_integer(tail_bits, random))};
      mpz_class value = kept * power_of_two(tail_bits) + tails[random() % 5];
      if (random() % 2 == 0) value = -value;
      const int length = static_cast<int>(mpz_sizeinbase(value.get_mpz_t(), 2));
      // Around 1, in the subnormals, below them, and at the largest number.
      const int exponents[] = {-length,
                               quantum - length + 1 + static_cast<int>(random() % 60),
                               quantum - length - static_cast<int>(random() % 3),
                               quantum - tail_bits,
                               top - length,
                               top - length - 1};
      const int exponent = exponents[random() % std::size(exponents)];
      SCOPED_TRACE(value.get_str(16) + " * 2^" + std::to_string(exponent));
      const double expected = oracle::round_to(type, {value, exponent});
      const WideInt w = wide(value);
      const double actual =
          precision == 24 ? static_cast<double>(w.to_float(exponent)) : w.to_double(exponent);
      ASSERT_EQ(bits(expected), bits(actual)) << expected << " and " << actual;
    }
  }
}

TEST(WideInt, RoundingFacts) {
  EXPECT_EQ(bits(0.0), bits(WideInt().to_double(5000)));
  EXPECT_EQ(bits(0.0), bits((WideInt(-7) - WideInt(-7)).to_double(0)));
  EXPECT_EQ(bits(-0.0), bits(WideInt(-1).to_double(-1075)));  // half of the smallest: to even
  EXPECT_EQ(0x1p-1074, WideInt(3).to_double(-1076));
  EXPECT_EQ(-0x1p-1074, WideInt(-3).to_double(-1076));
  EXPECT_EQ(bits(-0.0), bits(WideInt(-1).to_double(-5000)));
  EXPECT_EQ(0x1p53, WideInt((std::int64_t{1} << 53) + 1).to_double(0));
  EXPECT_EQ(0x1p53 + 4, WideInt((std::int64_t{1} << 53) + 3).to_double(0));
  // Halfway from the largest number to 2^1024.
  EXPECT_EQ(std::numeric_limits<double>::infinity(), WideInt((std::int64_t{1} << 54) - 1).to_double(970));
  EXPECT_EQ(std::numeric_limits<double>::max(),
            wide(power_of_two(100) - power_of_two(46) - 1).to_double(924));
  EXPECT_EQ(-std::numeric_limits<double>::infinity(), WideInt(-1).to_double(1024));
  EXPECT_EQ(-std::numeric_limits<float>::infinity(), WideInt(-1).to_float(128));
  EXPECT_EQ(0x1p-149F, WideInt(3).to_float(-151));
}

}  // namespace
}  // namespace syncbn::exact
