// SPDX-License-Identifier: Apache-2.0

// The 16-bit types against the oracle's conversions, which share no code with them.
//
// control: float16 made through float (static_cast<float>(value) first) fails DoubleRounding and Ties; ties
// away from zero (`rest >= half`) fail Ties.

#include "syncbn/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "oracle/number.h"

namespace syncbn {
namespace {

using oracle::Type;

template <class Half>
constexpr Type kType = std::is_same_v<Half, float16> ? Type::float16 : Type::bfloat16;

template <class Half>
void expect_rounded(double value) {
  const std::uint64_t expected = oracle::encode(kType<Half>, oracle::round_to(kType<Half>, value));
  const Half actual(value);
  if (std::isnan(value)) {
    EXPECT_TRUE(std::isnan(static_cast<double>(actual)));
  } else {
    EXPECT_EQ(expected, actual.bits) << "of " << value << " = " << std::hexfloat << value;
  }
}

template <class Half>
class HalfTypes : public ::testing::Test {};
using Halves = ::testing::Types<float16, bfloat16>;
TYPED_TEST_SUITE(HalfTypes, Halves);

TYPED_TEST(HalfTypes, EveryPattern) {
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const auto half = TypeParam::from_bits(static_cast<std::uint16_t>(pattern));
    const auto value = static_cast<double>(half);
    const double expected = oracle::decode(kType<TypeParam>, pattern);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << pattern;
      ASSERT_TRUE(std::isnan(static_cast<double>(TypeParam(value)))) << pattern;
    } else {
      ASSERT_EQ(std::bit_cast<std::uint64_t>(expected), std::bit_cast<std::uint64_t>(value)) << pattern;
      ASSERT_EQ(pattern, TypeParam(value).bits);
    }
  }
}

// Halfway between every two neighbours, and the doubles next to it.
TYPED_TEST(HalfTypes, Ties) {
  for (unsigned pattern = 0; pattern < 0x7fff; ++pattern) {
    const double low = oracle::decode(kType<TypeParam>, pattern);
    double high = oracle::decode(kType<TypeParam>, pattern + 1);
    if (!std::isfinite(low)) break;
    if (std::isinf(high)) high = 2 * low - oracle::decode(kType<TypeParam>, pattern - 1);  // 2^16, 2^128
    const double middle = low + (high - low) / 2;
    for (const double value : {middle, std::nextafter(middle, 0), std::nextafter(middle, HUGE_VAL)}) {
      expect_rounded<TypeParam>(value);
      expect_rounded<TypeParam>(-value);
    }
  }
}

// So near to a tie that float's rounding reaches it: the way through float takes the wrong side.
TYPED_TEST(HalfTypes, DoubleRounding) {
  int trapped = 0;
  for (unsigned pattern = 1; pattern < 0x7c00; pattern += 7) {
    const double low = oracle::decode(kType<TypeParam>, pattern);
    const double high = oracle::decode(kType<TypeParam>, pattern + 1);
    if (!std::isfinite(high)) break;
    const double middle = low + (high - low) / 2;
    for (const double value : {middle * (1 + 0x1p-40), middle * (1 - 0x1p-40)}) {
      expect_rounded<TypeParam>(value);
      trapped += TypeParam(static_cast<double>(static_cast<float>(value))).bits != TypeParam(value).bits;
    }
  }
  EXPECT_GT(trapped, 1000);  // the data can tell
}

TYPED_TEST(HalfTypes, RandomDoubles) {
  std::mt19937_64 random(1);
  for (int k = 0; k < 20000; ++k) {
    expect_rounded<TypeParam>(std::bit_cast<double>(random()));
    // Where the type has its numbers.
    const double value = static_cast<double>(random() >> 11) * 0x1p-53 - 0.5;
    const int range = std::is_same_v<TypeParam, float16> ? 45 : 285;
    const int lowest = std::is_same_v<TypeParam, float16> ? -26 : -136;
    expect_rounded<TypeParam>(
        std::ldexp(value, lowest + static_cast<int>(random() % static_cast<unsigned>(range))));
  }
}

TYPED_TEST(HalfTypes, Extremes) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double value : {0.0, infinity, std::numeric_limits<double>::max(), std::nan(""),
                             std::numeric_limits<double>::denorm_min(), std::numeric_limits<double>::min(),
                             65504.0, 65519.999, 65520.0, 0x1p-24, 0x1p-25, 0x1.8p-25, 0x1p-133, 0x1p-134}) {
    expect_rounded<TypeParam>(value);
    expect_rounded<TypeParam>(-value);
  }
}

TEST(HalfFacts, Numbers) {
  EXPECT_EQ(0x7bff, float16(65519.999).bits);  // the largest
  EXPECT_EQ(0x7c00, float16(65520.0).bits);    // a tie, to the even infinity
  EXPECT_EQ(0x0000, float16(0x1p-25).bits);
  EXPECT_EQ(0x0001, float16(0x1.0000000000001p-25).bits);
  EXPECT_EQ(0x8000, float16(-0.0).bits);
  EXPECT_EQ(0x3c00, float16(1.0).bits);
  EXPECT_EQ(0x3f80, bfloat16(1.0).bits);
  EXPECT_EQ(0x7f80, bfloat16(std::numeric_limits<double>::max()).bits);
  EXPECT_EQ(0, float16().bits);
}

TEST(DType, Facts) {
  EXPECT_EQ(2U, size_of(DType::float16));
  EXPECT_EQ(2U, size_of(DType::bfloat16));
  EXPECT_EQ(4U, size_of(DType::float32));
  EXPECT_EQ(8U, size_of(DType::float64));
  EXPECT_EQ(std::string("float16"), name_of(DType::float16));
  EXPECT_EQ(std::string("bfloat16"), name_of(DType::bfloat16));
  EXPECT_EQ(std::string("float32"), name_of(DType::float32));
  EXPECT_EQ(std::string("float64"), name_of(DType::float64));
  EXPECT_EQ(std::string("unknown dtype"), name_of(static_cast<DType>(9)));
  EXPECT_EQ(DType::float16, dtype_of<float16>);
  EXPECT_EQ(DType::bfloat16, dtype_of<bfloat16>);
  EXPECT_EQ(DType::float32, dtype_of<float>);
  EXPECT_EQ(DType::float64, dtype_of<double>);
}

}  // namespace
}  // namespace syncbn
