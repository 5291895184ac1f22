// SPDX-License-Identifier: Apache-2.0

// Data that reaches each bound of the device's sums: the count of an accumulator, the edges of a window, the
// additions that a digit can take.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "device/emulated.h"
#include "device/executor.h"
#include "device/launch.h"
#include "kernels/reference.h"

namespace syncbn::device {
namespace {

using Words = std::vector<std::int64_t>;

template <class Storage>
void expect_reference(const std::vector<Storage>& a, const std::vector<Storage>& b, Layout layout,
                      std::int64_t channels = 1, std::int64_t most_blocks = 1) {
  const auto positions = static_cast<std::int64_t>(a.size()) / channels;
  const kernels::Geometry g{dtype_of<Storage>, layout, 1, channels, positions};
  const exact::SumFormat& format = exact::sum_format(g.dtype);
  for (const bool squares : {true, false}) {
    Words expected(static_cast<std::size_t>(channels * format.words())), actual = expected;
    kernels::reference::accumulate({a.data()}, {squares ? a.data() : b.data()}, g, kernels::whole(g),
                                   {expected.data(), format});
    const AccumulateArguments call{{g.dtype, layout, 1, channels, positions, most_blocks},
                                   a.data(),
                                   squares ? nullptr : b.data(),
                                   nullptr,
                                   actual.data(),
                                   true};
    ASSERT_EQ(0, emulated_api().accumulate(&call, nullptr));
    ASSERT_EQ(expected, actual) << name_of(g.dtype) << (squares ? ", squares" : ", pairs") << ", layout "
                                << static_cast<int>(layout);
  }
}
constexpr Layout kLayouts[] = {Layout::channels_first, Layout::channels_last};

// All elements at the top of a window, so that sums of |X1| and of products are as large as they can be.
TEST(DeviceBounds, CountOfAnAccumulator) {
  for (const float top : {std::nextafter(2.0F, 0.0F), -std::nextafter(2.0F, 0.0F), 1.5F - 0x1p-20F}) {
    std::vector<float> x(160000, top);
    x[0] = 3.9F;  // the window's top comes with the first tile
    for (const Layout layout : kLayouts) expect_reference(x, x, layout);
    for (const Layout layout : kLayouts) expect_reference(x, x, layout, 4);
  }
}

// Pairs of elements 20 to 48 octaves apart, at whole, half and odd multiples of a window's unit.
TEST(DeviceBounds, EdgesOfAWindow) {
  for (int apart = 16; apart <= 50; ++apart) {
    std::vector<float> x;
    for (const int top : {0, -100, 120, -149 + apart}) {
      for (const float significand : {1.0F, 1.0F + 0x1p-23F, 2.0F - 0x1p-23F, 1.5F}) {
        for (const float other : {1.0F, 1.0F + 0x1p-23F, 2.0F - 0x1p-22F}) {
          for (int i = 0; i < 16; ++i) {
            x.push_back(std::ldexp(significand, top));
            x.push_back(std::ldexp(i % 2 == 0 ? other : -other, top - apart));
          }
        }
      }
    }
    std::vector<float> b(x.rbegin(), x.rend());
    for (const Layout layout : kLayouts) {
      expect_reference(x, b, layout);
      expect_reference(x, b, layout, 2);
      expect_reference(x, b, layout, 4);
    }
  }
}

// The largest numbers, above the highest window, and the smallest.
TEST(DeviceBounds, EndsOfTheRange) {
  constexpr float kMost = std::numeric_limits<float>::max();
  for (const float x : {kMost, -kMost, 0x1p126F, 0x1.fffffep125F, 0x1p-149F, -0x1p-126F, -0.0F}) {
    for (const float y : {kMost, 0x1p-149F, 1.0F}) {
      for (const Layout layout : kLayouts) {
        expect_reference(std::vector<float>(3000, x), std::vector<float>(3000, y), layout);
        expect_reference(std::vector<float>(3000, x), std::vector<float>(3000, y), layout, 4);
      }
    }
  }
  for (const double x : {65504.0, -65504.0, 0x1p-24, -0x1p-14}) {
    for (const Layout layout : kLayouts) {
      expect_reference(std::vector<float16>(9000, float16(x)), std::vector<float16>(9000, float16(65504.0)),
                       layout);
    }
  }
  for (const double x : {std::numeric_limits<double>::max(), 0x1p-1074, 1.0}) {
    const std::vector<double> same(200, x), other(200, -x);
    for (const Layout layout : kLayouts) expect_reference(same, other, layout);
  }
}

// So many additions of 47 one bits to one digit of a block that it would overflow without a propagation of
// carries. An infinity in each tile sends the tile to the digits.
TEST(DeviceBounds, AdditionsToADigit) {
  constexpr std::size_t kCount = 140000;  // > 2^63 / 2^47
  const int at = 3 * exact::kDigitBits - 149 - 24;
  std::vector<float> x(kCount, std::ldexp(0x1.fffffep0F, at + 47));
  for (std::size_t i = 0; i < kCount; i += 64) x[i] = std::numeric_limits<float>::infinity();
  const std::vector<float> b(kCount, 0x1p20F);
  for (const Layout layout : kLayouts) expect_reference(x, b, layout);
  std::vector<double> wide(70000, std::ldexp(0x1.fffffffffffffp0, 24 * exact::kDigitBits - 1074 + 46));
  for (const Layout layout : kLayouts) expect_reference(wide, wide, layout);
}

// The length of a slice does not matter, nor do the blocks: with one block all slices are its own.
TEST(DeviceBounds, Slices) {
  const Shape shape{DType::float32, Layout::channels_first, 1, 1, 1, 100};
  for (const std::int64_t size : {1, 5, 4096, 100000, 1 << 30}) {
    const Slices slices = slices_of(shape, size, 1, 1024, 8192);
    EXPECT_LE(slices.count, kMostSlices);
    EXPECT_GE(slices.length * slices.count, size);
    EXPECT_LT(slices.length * (slices.count - 1), size);
  }
}

TEST(DeviceBounds, Division) {
  for (std::int64_t divisor = 1; divisor < 40000; divisor += 1 + divisor / 50) {
    const Division division = division_by(divisor);
    for (std::int64_t n = 0; n < divisor + Division::kReach; n += 1 + n % 7) {
      ASSERT_EQ(n / divisor, division.quotient(n)) << n << " / " << divisor;
    }
    for (std::int64_t n = divisor + Division::kReach - 1000; n < divisor + Division::kReach; ++n) {
      ASSERT_EQ(n / divisor, division.quotient(n)) << n << " / " << divisor;
    }
  }
}

}  // namespace
}  // namespace syncbn::device
