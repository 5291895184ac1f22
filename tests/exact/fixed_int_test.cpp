// SPDX-License-Identifier: Apache-2.0

// FixedInt against WideInt, which is checked against GMP.
//
// control: a carry that is not passed on in negate_where, the sign left out above the highest digit, a half
// that is always rounded up, or below >> where it is <<: each makes these tests fail.

#include "exact/fixed_int.h"

#include <gtest/gtest.h>

#include <random>

namespace syncbn::exact {
namespace {

std::uint64_t bits(double value) { return std::bit_cast<std::uint64_t>(value); }

// Digits of few or of all bits, of either sign, with runs of zeros and of ones.
std::int64_t draw_digit(std::mt19937_64& random) {
  const int width = static_cast<int>(random() % 62);
  std::int64_t digit = static_cast<std::int64_t>(random() >> (63 - width)) >> 1;
  if (random() % 4 == 0) digit = 0;
  if (random() % 8 == 0) digit = (std::int64_t{1} << kDigitBits) - 1;
  return random() % 2 == 0 ? digit : -digit;
}

constexpr int kExponents[] = {0, -40, -149, -298, 100, -1100, -1250, 700, 900};

TEST(FixedInt, IsWideInt) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100000; ++i) {
    std::int64_t sum[3], product[6];
    for (std::int64_t& digit : sum) digit = draw_digit(random);
    for (std::int64_t& digit : product) digit = draw_digit(random);
    if (i % 3 == 0) product[5] = product[4] = product[3] = 0;
    const auto s = FixedInt<3>::from_digits(sum);
    const auto p = FixedInt<5>::from_digits(product);
    const WideInt wide_s = WideInt::from_digits(sum, 3), wide_p = WideInt::from_digits(product, 6);
    const auto n = static_cast<std::int64_t>(random() >> (11 + random() % 52)) * (random() % 2 == 0 ? 1 : -1);
    const int shift = static_cast<int>(random() % 128);
    const int e = kExponents[random() % std::size(kExponents)];
    ASSERT_EQ(bits(wide_s.to_double(e)), bits(s.to_double(e)));
    ASSERT_EQ(bits(wide_p.to_double(e)), bits(p.to_double(e)));
    ASSERT_EQ(bits((WideInt(n) * wide_p - wide_s * wide_s).to_double(e)),
              bits((FixedInt<1>::of(n) * p - s * s).to_double(e)));
    ASSERT_EQ(bits((wide_p.shifted(shift) - WideInt(n) * wide_s).to_double(e)),
              bits((p.shifted(shift) - (FixedInt<1>::of(n) * s).widened<7>()).to_double(e)));
    ASSERT_EQ(bits((wide_p - wide_p).to_double(e)), bits((p - p).to_double(e)));
  }
}

// Numbers around a half of the last bit.
TEST(FixedInt, RoundsToNearestEven) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100000; ++i) {
    const int below = static_cast<int>(random() % 80);  // bits that are rounded away
    const auto kept = static_cast<std::int64_t>(random() >> 11 | std::uint64_t{1} << 52);
    std::int64_t digits[6] = {};
    add_scaled(digits, kept, below);
    if (below > 0 && random() % 4 != 0) add_scaled(digits, 1, below - 1);
    if (random() % 2 == 0) digits[0] += static_cast<std::int64_t>(random() % 3) - 1;
    if (random() % 2 == 0) {
      for (std::int64_t& digit : digits) digit = -digit;
    }
    ASSERT_EQ(bits(WideInt::from_digits(digits, 6).to_double(0)),
              bits(FixedInt<5>::from_digits(digits).to_double(0)));
  }
}

}  // namespace
}  // namespace syncbn::exact
