// SPDX-License-Identifier: Apache-2.0

// The sums of neighbouring channels of every instruction set against the scalar reference, digit for digit,
// each lane with data at the edges of a window of its own.
//
// control: with the span of make_window one octave wider, the misfits' sums added all the same, a window for
// all lanes in sum_strip, or in sum_levels_strip one start for all, these tests fail.

#include "kernels/sum_lanes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "exact/exact_sum.h"
#include "kernels/data.h"
#include "kernels/reference.h"

namespace syncbn::kernels {
namespace {

using Floats = std::vector<float>;
using Record = std::vector<std::int64_t>;

// The loops of the forced instruction set.
bool sum_lanes(const Rows<float>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen) {
  return lane_tables().of<float>().sum(terms, windows, sums, seen);
}
void sum_lanes_levels(const Rows<float>& terms, const LaneLevels& levels, int pass, LaneLevelSums& sums) {
  lane_tables().of<float>().sum_levels(terms, levels, pass, sums);
}

const exact::SumFormat& kFormat = exact::sum_format(DType::float32);

Record expected_record(const Floats& a, const Floats& b, std::size_t lane) {
  Record record(static_cast<std::size_t>(kFormat.words()));
  const auto rows = static_cast<std::int64_t>(a.size() / kLanes);
  const auto channel = static_cast<std::int64_t>(lane);
  reference::accumulate({a.data()}, {b.data()}, {DType::float32, Layout::channels_last, rows, kLanes, 1},
                        {channel, 1, 0, rows}, {record.data(), kFormat});
  return record;
}

Record record_of(const LaneSums& sums, std::size_t lane, const Window& window) {
  Record record(static_cast<std::size_t>(kFormat.words()));
  exact::add_scaled(record.data(), sums.sum[lane], window.sum_ulp - kFormat.unit);
  std::int64_t* products = record.data() + kFormat.sum_digits;
  exact::add_scaled(products, sums.high[lane], window.high_ulp - 2 * kFormat.unit);
  exact::add_scaled(products, sums.low[lane], window.low_ulp - 2 * kFormat.unit);
  exact::Record(record.data(), kFormat).propagate_carries();
  return record;
}

float value_of(std::uint32_t pattern, bool negative) {
  return std::bit_cast<float>(pattern | (negative ? 0x80000000u : 0u));
}

// One of [low, high): near the top, near the bottom, or anywhere.
float draw_inside(std::uint32_t low, std::uint32_t high, int how, std::mt19937_64& random) {
  const std::uint64_t noise = random();
  const auto place = static_cast<std::uint32_t>(noise >> 8);
  if (how == 0) return value_of(high - 1 - place % 3, (noise & 1) != 0);
  if (how == 1) return value_of(std::max(low, 1u) | 1, (noise & 1) != 0);
  if (how == 2) return value_of(high - 1, false);
  return value_of(low + place % (high - low), (noise & 1) != 0);
}

class SumLanes : public ::testing::TestWithParam<std::string> {};

TEST_P(SumLanes, AreExactUpToTheEdgesOfTheirWindows) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(1);
  constexpr int exponents[] = {127, 100, 0, -70, -100, -120, -126};
  for (const std::size_t rows : {1U, 2U, 7U, 127U, 128U}) {
    for (const bool squares : {true, false}) {
      LaneWindows windows;
      std::vector<Window> window(kLanes);
      Floats a(rows * kLanes), b(a.size());
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const int a_exponent = exponents[random() % std::size(exponents)];
        window[lane] =
            make_window(a_exponent, squares ? a_exponent : exponents[random() % std::size(exponents)]);
        windows.set(lane, window[lane]);
        const int how = static_cast<int>(random() % 4);
        for (std::size_t row = 0; row < rows; ++row) {
          a[row * kLanes + lane] = draw_inside(window[lane].a_low, window[lane].a_high, how, random);
          b[row * kLanes + lane] = draw_inside(window[lane].b_low, window[lane].b_high, how, random);
        }
      }
      const Floats& other = squares ? a : b;
      const Rows<float> terms{a.data(), other.data(), nullptr, rows, kLanes, kLanes};
      LaneSums sums{};
      LaneRanges seen;
      ASSERT_TRUE(sum_lanes(terms, windows, sums, seen));
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const Record expected = expected_record(a, other, lane);
        ASSERT_EQ(expected, record_of(sums, lane, window[lane])) << "rows " << rows << ", lane " << lane;
      }
    }
  }
}

// Lanes whose elements do not all lie in the window are told, and keep the sums that they had.
TEST_P(SumLanes, MisfitsAreLeftOut) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(2);
  constexpr std::size_t kRows = 20;
  const Window window = make_window(2, 2);
  LaneWindows windows;
  for (std::size_t lane = 0; lane < kLanes; ++lane) windows.set(lane, window);
  for (const float outside :
       {std::nanf(""), std::numeric_limits<float>::infinity(), 8.0F, -8.0F, 0x1p-19F, -0x1p-149F}) {
    for (const bool in_b : {false, true}) {
      Floats a = draw<float>(Kind::ordinary, kRows * kLanes, random);
      Floats b = draw<float>(Kind::ordinary, kRows * kLanes, random);
      for (Floats* values : {&a, &b}) {
        for (float& value : *values) value = std::fabs(value) < 0x1p-17F ? 0.0F : value;
      }
      const std::size_t misfit = random() % kLanes;
      (in_b ? b : a)[random() % kRows * kLanes + misfit] = outside;
      LaneSums sums{};
      LaneRanges seen;
      for (std::size_t lane = 0; lane < kLanes; ++lane) sums.low[lane] = static_cast<std::int64_t>(lane);
      const Rows<float> terms{a.data(), b.data(), nullptr, kRows, kLanes, kLanes};
      ASSERT_FALSE(sum_lanes(terms, windows, sums, seen));
      EXPECT_EQ(sums.sum[misfit], 0);
      EXPECT_EQ(sums.high[misfit], 0);
      EXPECT_EQ(sums.low[misfit], static_cast<std::int64_t>(misfit));
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        EXPECT_EQ(lane != misfit, window.holds(seen.a(lane), seen.b(lane)));
        sums.low[lane] -= static_cast<std::int64_t>(lane);
        if (lane != misfit) {
          ASSERT_EQ(expected_record(a, b, lane), record_of(sums, lane, window));
        }
      }
    }
  }
}

// Each lane by as many passes as its own range asks for.
TEST_P(SumLanes, LevelsAreExactWhateverTheRange) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(3);
  constexpr int exponents[] = {127, 100, 20, 0, -44, -90, -126};
  for (const std::size_t rows : {1U, 2U, 7U, 127U, 128U}) {
    for (const int round : {0, 1, 2, 3}) {
      Floats a(rows * kLanes), b(a.size());
      const bool squares = round % 2 == 0;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const int how = static_cast<int>(random() % 4);
        for (Floats* values : {&a, &b}) {
          const auto [low, high] = std::minmax(
              {exponents[random() % std::size(exponents)], exponents[random() % std::size(exponents)]});
          for (std::size_t row = 0; row < rows; ++row) {
            (*values)[row * kLanes + lane] =
                draw_inside(static_cast<std::uint32_t>(low + 127) << 23,
                            static_cast<std::uint32_t>(high + 128) << 23, row % 5 == 0 ? 3 : how, random);
          }
        }
      }
      const Floats finite_a = [&] {
        Floats finite = a;
        a[random() % a.size()] = std::nanf("");
        for (std::size_t i = 0; i < a.size(); ++i) finite[i] = std::isnan(a[i]) ? 0.0F : a[i];
        return finite;
      }();
      const Rows<float> terms{a.data(), squares ? a.data() : b.data(), nullptr, rows, kLanes, kLanes};
      LaneWindows none{};
      LaneSums unused{};
      LaneRanges seen;
      sum_lanes(terms, none, unused, seen);
      std::vector<Levels> levels;
      LaneLevels starts;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        levels.push_back(levels_of<float>(seen.a(lane), squares ? seen.a(lane) : seen.b(lane)));
        starts.set(lane, levels[lane]);
      }
      std::vector<Record> records(kLanes, Record(static_cast<std::size_t>(kFormat.words())));
      for (int pass = 0; pass < starts.passes; ++pass) {
        LaneLevelSums sums;
        sum_lanes_levels(terms, starts, pass, sums);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          add_levels({records[lane].data(), kFormat}, levels[lane], pass, sums.of(lane));
        }
      }
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        exact::Record(records[lane].data(), kFormat).propagate_carries();
        ASSERT_EQ(expected_record(finite_a, squares ? finite_a : b, lane), records[lane])
            << "rows " << rows << ", round " << round << ", lane " << lane;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, SumLanes, ::testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return isa.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SumLanes);  // where there is the reference only

}  // namespace
}  // namespace syncbn::kernels
