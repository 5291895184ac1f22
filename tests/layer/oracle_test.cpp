// SPDX-License-Identifier: Apache-2.0

// The judge is judged: the oracle's roundings against MPFR, its fused multiply-add and encodings against the
// machine's. (golden_test.cpp compares the whole oracle with the Python generator's vectors.)
//
// control: ties away from zero in round_to, or no limit at the quantum, fail RoundingIsMpfrs.

#include <gtest/gtest.h>
#include <mpfr.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "layer/data.h"
#include "oracle/number.h"

namespace syncbn::testing {
namespace {

using oracle::Dyadic;
using oracle::Type;

std::uint64_t bits(double value) { return oracle::encode(Type::float64, value); }

// MPFR counts exponents for significands in [1/2, 1).
double round_by_mpfr(Type type, const Dyadic& value) {
  struct Format {
    int precision;
    mpfr_exp_t min, max;
  };
  constexpr Format formats[] = {{11, -23, 16}, {8, -132, 128}, {24, -148, 128}, {53, -1073, 1024}};
  const Format& f = formats[static_cast<int>(type)];
  mpfr_t x;
  mpfr_init2(x, f.precision);
  mpfr_set_emin(f.min);
  mpfr_set_emax(f.max);
  int inexact = mpfr_set_z_2exp(x, value.significand.get_mpz_t(), value.exponent, MPFR_RNDN);
  inexact = mpfr_check_range(x, inexact, MPFR_RNDN);
  mpfr_subnormalize(x, inexact, MPFR_RNDN);
  const double result = mpfr_get_d(x, MPFR_RNDN);
  mpfr_clear(x);
  return value.significand == 0 ? 0.0 : result;
}

// Near the ends of the range, at ties and beside them.
TEST(Oracle, RoundingIsMpfrs) {
  Random random(1);
  for (const Type type : oracle::kTypes) {
    const int reach = type == Type::float64 ? 1100 : type == Type::float16 ? 40 : 170;
    for (int i = 0; i < 20000; ++i) {
      Dyadic value{mpz_class(static_cast<unsigned long>(random.bits() >> random.below(64))), 0};
      const auto extra = static_cast<mp_bitcnt_t>(random.below(80));
      value.significand <<= extra;
      value.significand += random.below(3) - 1;
      if (random.chance(2)) value.significand = -value.significand;
      value.exponent = random.below(2 * reach) - reach - static_cast<long>(extra) - random.below(64);
      EXPECT_EQ(bits(oracle::round_to(type, value)), bits(round_by_mpfr(type, value)))
          << oracle::name_of(type) << " " << value.significand.get_str() << " * 2^" << value.exponent;
    }
  }
}

TEST(Oracle, FusedMultiplyAddIsTheMachines) {
  Random random(2);
  for (int i = 0; i < 50000; ++i) {
    const Kind kind = kKinds[random.below(std::size(kKinds))];
    const std::vector<double> v = draw(kind, Type::float64, 3, random);
    EXPECT_EQ(bits(oracle::fused_multiply_add(Type::float64, v[0], v[1], v[2])),
              bits(std::fma(v[0], v[1], v[2])))
        << v[0] << " " << v[1] << " " << v[2];
    const std::vector<double> w = draw(kind, Type::float32, 3, random);
    const float expected =
        std::fma(static_cast<float>(w[0]), static_cast<float>(w[1]), static_cast<float>(w[2]));
    EXPECT_EQ(bits(oracle::fused_multiply_add(Type::float32, w[0], w[1], w[2])),
              bits(static_cast<double>(expected)))
        << w[0] << " " << w[1] << " " << w[2];
  }
}

TEST(Oracle, EncodingsAreTheMachines) {
  Random random(3);
  for (int i = 0; i < 50000; ++i) {
    const auto pattern = random.bits();
    const auto d = std::bit_cast<double>(pattern);
    const auto f = std::bit_cast<float>(static_cast<std::uint32_t>(pattern));
    EXPECT_EQ(bits(oracle::decode(Type::float64, pattern)), bits(d));
    if (!std::isnan(d)) {
      EXPECT_EQ(oracle::encode(Type::float64, d), pattern);
    }
    EXPECT_EQ(bits(oracle::decode(Type::float32, pattern & 0xffffffffu)), bits(static_cast<double>(f)));
    if (!std::isnan(f)) {
      EXPECT_EQ(oracle::encode(Type::float32, static_cast<double>(f)), pattern & 0xffffffffu);
    }
    EXPECT_EQ(bits(oracle::round_to(Type::float32, d)), bits(static_cast<double>(static_cast<float>(d))));
  }
}

TEST(Oracle, SixteenBitPatternsReturn) {
  for (const Type type : {Type::float16, Type::bfloat16}) {
    for (std::uint64_t pattern = 0; pattern < 65536; ++pattern) {
      const double value = oracle::decode(type, pattern);
      if (std::isnan(value)) continue;
      ASSERT_EQ(oracle::encode(type, value), pattern);
      ASSERT_EQ(bits(oracle::round_to(type, value)), bits(value));
    }
  }
  EXPECT_EQ(oracle::decode(Type::float16, 0x3c00), 1.0);
  EXPECT_EQ(oracle::decode(Type::float16, 0x7bff), 65504.0);
  EXPECT_EQ(oracle::decode(Type::float16, 0x0001), 0x1p-24);
  EXPECT_EQ(oracle::decode(Type::bfloat16, 0xc040), -3.0);
  EXPECT_EQ(oracle::decode(Type::bfloat16, 0x0001), 0x1p-133);
}

}  // namespace
}  // namespace syncbn::testing
