// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>

#include "exact/exact_sum.h"

/// Rows of digits as GMP integers and back.
namespace syncbn::exact {

inline mpz_class power_of_two(int exponent) { return mpz_class(1) << static_cast<mp_bitcnt_t>(exponent); }

inline mpz_class integer(std::span<const std::int64_t> digits) {
  mpz_class value = 0;
  for (std::size_t i = digits.size(); i-- > 0;) {
    value = (value << kDigitBits) + static_cast<long>(digits[i]);
  }
  return value;
}

/// Writes `value` as a row in which neighbours have lent each other at random: digits overlap and have either
/// sign.
inline void write_digits(const mpz_class& value, std::span<std::int64_t> digits, std::mt19937_64& random) {
  mpz_class rest = value;
  for (std::size_t i = 0; i + 1 < digits.size(); ++i) {
    mpz_class digit;
    mpz_fdiv_r_2exp(digit.get_mpz_t(), rest.get_mpz_t(), kDigitBits);
    mpz_fdiv_q_2exp(rest.get_mpz_t(), rest.get_mpz_t(), kDigitBits);
    digits[i] = digit.get_si();
  }
  ASSERT_TRUE(rest.fits_slong_p());
  digits.back() = rest.get_si();
  for (std::size_t i = 0; i + 1 < digits.size(); ++i) {
    const auto lent = static_cast<std::int64_t>(random() >> 50) - (1 << 13);
    digits[i] += lent * (std::int64_t{1} << kDigitBits);
    digits[i + 1] -= lent;
  }
}

/// A random integer below 2^bits of either sign, often with long runs of zeros or ones: carries travel far.
inline mpz_class random_integer(int bits, std::mt19937_64& random) {
  mpz_class value = 0;
  for (int have = 0; have < bits;) {
    const int run = 1 + static_cast<int>(random() % 100);
    mpz_class piece = 0;
    const auto kind = random() % 3;
    if (kind == 1) piece = power_of_two(run) - 1;
    for (int b = 0; kind == 2 && b < run; ++b) piece = 2 * piece + static_cast<int>(random() & 1);
    value = (value << static_cast<mp_bitcnt_t>(run)) + piece;
    have += run;
  }
  value %= power_of_two(bits);
  if ((random() & 1) != 0) value = -value;
  return value;
}

/// For comparisons: all bits of a double, one pattern for all NaNs.
inline std::uint64_t bits(double value) {
  return std::bit_cast<std::uint64_t>(std::isnan(value) ? std::nan("") : value);
}

}  // namespace syncbn::exact
