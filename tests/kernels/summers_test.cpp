// SPDX-License-Identifier: Apache-2.0

// What only long sums reach: sums in a window's units that are brought to their records before they overflow,
// and digits whose carries are propagated before they do.
//
// control: each of these makes a test here fail: kBlocksBeforeDrain four times as large (that of blocks where
// there is AVX-512), no propagate_carries() in LaneSummer::count_adds, or none in BlockSummer::count_adds.

#include <gtest/gtest.h>

#include "exact/exact_sum.h"
#include "kernels/block_summer.h"
#include "kernels/data.h"
#include "kernels/double_summer.h"
#include "kernels/lane_summer.h"

namespace syncbn::kernels {
namespace {

using Floats = std::vector<float>;
using Record = std::vector<std::int64_t>;

const exact::SumFormat& kFormat = exact::sum_format(DType::float32);
constexpr float kLargest = std::numeric_limits<float>::max();

// Of x = (2^24 - 1)·2^104, the largest number, x² = (2^48 - 2^25 + 1)·2^208.
Record expected_record(std::int64_t count, std::int64_t flags) {
  Record record(static_cast<std::size_t>(kFormat.words()));
  exact::add_scaled(record.data(), count * ((1 << 24) - 1), 104 - kFormat.unit);
  std::int64_t* products = record.data() + kFormat.sum_digits;
  exact::add_scaled(products, count, 208 + 48 - 2 * kFormat.unit);
  exact::add_scaled(products, -count, 208 + 25 - 2 * kFormat.unit);
  exact::add_scaled(products, count, 208 - 2 * kFormat.unit);
  exact::Record(record.data(), kFormat).propagate_carries();
  record[static_cast<std::size_t>(kFormat.words() - 2)] = flags;
  record[static_cast<std::size_t>(kFormat.words() - 1)] = flags;
  return record;
}

// The same block, `blocks` times, against what each of its channels must have.
void expect_lanes(const Floats& block, int blocks, const Record& expected) {
  const Rows<float> terms{block.data(), block.data(), nullptr, block.size() / kLanes, 1, kLanes};
  Record records(kLanes * expected.size());
  LaneSummer<float> summer;
  summer.begin(terms, kLanes, {records.data(), kFormat});
  for (int i = 0; i < blocks; ++i) summer.add(terms);
  summer.complete();
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const auto first = records.begin() + static_cast<std::ptrdiff_t>(lane * expected.size());
    ASSERT_EQ(expected, Record(first, first + static_cast<std::ptrdiff_t>(expected.size())))
        << "lane " << lane;
  }
}

class Summers : public ::testing::TestWithParam<std::string> {};

TEST_P(Summers, SumsOfLanesDoNotOverflow) {
  const ForcedIsa isa(GetParam());
  constexpr int kBlocks = (1 << 12) + 2;  // of almost 2^51 units each
  constexpr auto kRows = static_cast<std::int64_t>(kMaxAdditions);
  expect_lanes(Floats(kMaxAdditions * kLanes, kLargest), kBlocks, expected_record(kBlocks * kRows, 0));
}

// 31 of the largest numbers add almost 2^47 to a digit, and 2^16 times as much is more than it holds.
constexpr int kTerms = 31;
constexpr int kTimes = (1 << 16) + (1 << 12);

// With a NaN each block misses its windows, and goes to the records at once.
TEST_P(Summers, DigitsOfLanesDoNotOverflow) {
  const ForcedIsa isa(GetParam());
  Floats block(kTerms * kLanes, kLargest);
  block.insert(block.end(), kLanes, std::numeric_limits<float>::quiet_NaN());
  expect_lanes(block, kTimes, expected_record(std::int64_t{kTimes} * kTerms, exact::kNan));
}

TEST_P(Summers, SumsOfBlocksDoNotOverflow) {
  const ForcedIsa isa(GetParam());
  constexpr int kBlocks = (1 << 8) + 2;
  const Floats block(kMaxAdditions * block_tables().of<float>().step(), kLargest);
  Record record(static_cast<std::size_t>(kFormat.words()));
  BlockSummer<float> summer;
  for (int i = 0; i <= kBlocks; ++i) {  // the first misses its window
    summer.add({block.data(), block.data(), nullptr, 1, block.size(), block.size()},
               {record.data(), kFormat});
  }
  summer.complete({record.data(), kFormat});
  EXPECT_EQ(expected_record((kBlocks + 1) * static_cast<std::int64_t>(block.size()), 0), record);
}

TEST_P(Summers, DigitsOfBlocksDoNotOverflow) {
  const ForcedIsa isa(GetParam());
  Floats block(kTerms, kLargest);
  block.push_back(std::numeric_limits<float>::quiet_NaN());
  const Record expected = expected_record(std::int64_t{kTimes} * kTerms, exact::kNan);
  Record record(expected.size());
  BlockSummer<float> summer;
  for (int i = 0; i < kTimes; ++i) {
    summer.add({block.data(), block.data(), nullptr, 1, block.size(), block.size()},
               {record.data(), kFormat});
  }
  summer.complete({record.data(), kFormat});
  EXPECT_EQ(expected, record);
}

// Of (2^53 - 1)·2^-52, the largest number of an octave.
TEST_P(Summers, SumsOfDoublesDoNotOverflow) {
  const ForcedIsa isa(GetParam());
  constexpr int kBlocks = 1 << 13;  // of up to 2^52 units each
  const exact::SumFormat& format = exact::sum_format(DType::float64);
  DoubleSummer summer;
  const std::vector<double> block(kMaxDoublePairs * summer.step(), 0x1.fffffffffffffp0);
  Record record(static_cast<std::size_t>(format.words())), expected = record;
  const exact::Record wanted(expected.data(), format);
  summer.begin(1, {record.data(), format});
  for (int i = 0; i < kBlocks; ++i) {
    summer.add({block.data(), block.data(), nullptr, 1, block.size(), block.size()});
  }
  summer.complete();
  const auto count = kBlocks * static_cast<std::int64_t>(block.size());
  exact::add_scaled(wanted.sum(), count, 1 - format.unit);
  exact::add_scaled(wanted.sum(), -count, -52 - format.unit);
  exact::add_scaled(wanted.product(), count, 2 - 2 * format.unit);  // (2^53 - 1)² = 2^106 - 2^54 + 1
  exact::add_scaled(wanted.product(), -count, -50 - 2 * format.unit);
  exact::add_scaled(wanted.product(), count, -104 - 2 * format.unit);
  wanted.propagate_carries();
  EXPECT_EQ(expected, record);
}

INSTANTIATE_TEST_SUITE_P(Isas, Summers, ::testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return isa.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Summers);  // where there is the reference only

}  // namespace
}  // namespace syncbn::kernels
