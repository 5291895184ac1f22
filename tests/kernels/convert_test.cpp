// SPDX-License-Identifier: Apache-2.0

// Widening and narrowing in the kernels against the oracle's conversions.
//
// control: truncating (no `+ 0x7fff + …`) in narrow<bfloat16>, or widen(float16) without the factor 2^112,
// makes these tests fail.

#include "kernels/convert.h"

#include <gtest/gtest.h>

#include "kernels/data.h"
#include "oracle/number.h"

namespace syncbn::kernels {
namespace {

using oracle::Type;

template <class Half>
void expect_conversions(Type type) {
  const auto expect_narrowed = [&](float value) {
    const auto wide = static_cast<double>(value);
    const auto expected =
        Half::from_bits(static_cast<std::uint16_t>(oracle::encode(type, oracle::round_to(type, wide))));
    ASSERT_EQ(bits(expected), bits(narrow<Half>(value))) << std::hexfloat << wide;
  };
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const auto half = Half::from_bits(static_cast<std::uint16_t>(pattern));
    const auto expected = static_cast<float>(oracle::decode(type, pattern));
    ASSERT_EQ(bits(expected), bits(widen(half))) << pattern;
    ASSERT_EQ(bits(half), bits(narrow<Half>(widen(half)))) << pattern;
    // Halfway to the next, and the floats beside it.
    const float next = widen(Half::from_bits(static_cast<std::uint16_t>(pattern + 1)));
    const float middle = expected + (next - expected) / 2;
    expect_narrowed(middle);
    expect_narrowed(std::nextafter(middle, 0.0F));
    expect_narrowed(std::nextafter(middle, HUGE_VALF));
  }
  std::mt19937_64 random(1);
  for (const Kind kind : kKinds) {
    for (int k = 0; k < 5000; ++k) expect_narrowed(draw<float>(kind, random));
  }
}

TEST(Convert, Float16) { expect_conversions<float16>(Type::float16); }
TEST(Convert, BFloat16) { expect_conversions<bfloat16>(Type::bfloat16); }

TEST(Convert, Passes) {
  EXPECT_TRUE(passes(1e-40F));
  EXPECT_TRUE(passes(std::nanf("")));
  EXPECT_FALSE(passes(0.0F));
  EXPECT_FALSE(passes(-0.0F));
  EXPECT_FALSE(passes(-1.0));
}

}  // namespace
}  // namespace syncbn::kernels
