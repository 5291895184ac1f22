// SPDX-License-Identifier: Apache-2.0

// The block sums of every instruction set against the scalar reference, digit for digit, with data at the
// edges of the window.
//
// control: with the span of make_window one octave wider (28 - l), its start one lower (a + 1 + l, or
// a + b + 2 + l), `low` one lower, one pass less in make_levels, its starts one lower, levels 46 bits
// apart, or add_below taking terms from the accumulators themselves, these tests fail.

#include "kernels/sum_block.h"

#include <fmt/core.h>
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
std::size_t block_step() { return block_tables().of<float>().step(); }
template <class Storage>
BlockSum sum_block(const Rows<Storage>& terms, const Window& window) {
  return block_tables().of<Storage>().sum(terms, window);
}
template <class Storage>
LevelSums sum_block_levels(const Rows<Storage>& terms, const Levels& levels, int pass) {
  return block_tables().of<Storage>().sum_levels(terms, levels, pass);
}

Record expected_record(const Floats& a, const Floats& b, DType dtype = DType::float32) {
  Record record(static_cast<std::size_t>(exact::sum_format(dtype).words()));
  const auto n = static_cast<std::int64_t>(a.size());
  if (dtype == DType::float32) {
    reference::accumulate({a.data()}, {b.data()}, {dtype, Layout::channels_first, 1, 1, n}, {0, 1, 0, n},
                          {record.data(), exact::sum_format(dtype)});
    return record;
  }
  std::vector<float16> a_halves, b_halves;
  for (const float value : a) a_halves.push_back(narrow<float16>(value));
  for (const float value : b) b_halves.push_back(narrow<float16>(value));
  reference::accumulate({a_halves.data()}, {b_halves.data()}, {dtype, Layout::channels_first, 1, 1, n},
                        {0, 1, 0, n}, {record.data(), exact::sum_format(dtype)});
  return record;
}

Record record_of(const BlockSum& sums, const Window& window, DType dtype = DType::float32) {
  const exact::SumFormat& format = exact::sum_format(dtype);
  Record record(static_cast<std::size_t>(format.words()));
  exact::add_scaled(record.data(), sums.sum, window.sum_ulp - format.unit);
  std::int64_t* products = record.data() + format.sum_digits;
  exact::add_scaled(products, sums.high, window.high_ulp - 2 * format.unit);
  exact::add_scaled(products, sums.low, window.low_ulp - 2 * format.unit);
  exact::Record(record.data(), format).propagate_carries();
  return record;
}

// By all passes that the block's ranges ask for.
template <class Storage>
Record record_by_levels(const Rows<Storage>& terms) {
  const exact::SumFormat& format = exact::sum_format(dtype_of<Storage>);
  Record record(static_cast<std::size_t>(format.words()));
  const BlockSum seen = sum_block(terms, Window{});
  const Levels levels = levels_of<Storage>(seen.a, seen.b);
  for (int pass = 0; pass < levels.passes; ++pass) {
    add_levels({record.data(), format}, levels, pass, sum_block_levels(terms, levels, pass));
  }
  exact::Record(record.data(), format).propagate_carries();
  return record;
}

std::uint32_t magnitude(float value) { return std::bit_cast<std::uint32_t>(value) & 0x7fffffffu; }
float value_of(std::uint32_t pattern, bool negative) {
  return std::bit_cast<float>(pattern | (negative ? 0x80000000u : 0u));
}

// Block lengths: all short ones, those around whole vectors of long ones, and the longest.
std::vector<std::size_t> lengths() {
  const std::size_t longest = kMaxAdditions * block_step();
  std::vector<std::size_t> all;
  for (std::size_t n = 1; n <= 70; ++n) all.push_back(n);
  for (const std::size_t n : {127U, 128U, 129U, 255U, 256U, 257U, 511U, 513U, 1000U, 1023U}) all.push_back(n);
  for (std::size_t less = 0; less < 3; ++less) all.push_back(longest - less);
  return all;
}

// Elements in [low, high) of |bits|.
enum class Fill {
  all_largest,
  largest_of_either_sign,
  all_smallest,
  odd_smallest_under_one_top,
  spread,
  sparse
};
constexpr Fill kFills[] = {Fill::all_largest,  Fill::largest_of_either_sign,
                           Fill::all_smallest, Fill::odd_smallest_under_one_top,
                           Fill::spread,       Fill::sparse};

Floats fill(Fill how, std::uint32_t low, std::uint32_t high, std::size_t n, std::mt19937_64& random) {
  Floats values(n);
  // Low 0 is the window that holds the subnormals: its smallest number is 2^-149.
  const std::uint32_t smallest = std::max(low, 1u);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t noise = random();
    const bool negative = (noise & 1) != 0;
    const auto place = static_cast<std::uint32_t>(noise >> 8);
    switch (how) {
      case Fill::all_largest:
        values[i] = value_of(high - 1, false);
        break;
      case Fill::largest_of_either_sign:
        values[i] = value_of(high - 1 - place % 3, negative);
        break;
      case Fill::all_smallest:
        values[i] = value_of(smallest, negative);
        break;
      case Fill::odd_smallest_under_one_top:
        values[i] = i == n / 2 ? value_of(high - 1, negative) : value_of(smallest | 1, negative);
        break;
      case Fill::spread:
        values[i] = value_of(low + place % (high - low), negative);
        break;
      case Fill::sparse:
        values[i] = place % 4 != 0 ? value_of(0, negative) : value_of(high - 1 - place % 1000, negative);
        break;
    }
  }
  return values;
}

Rows<float> one_row(const Floats& a, const Floats& b) {
  return {a.data(), b.data(), nullptr, 1, a.size(), a.size()};
}

class SumBlock : public ::testing::TestWithParam<std::string> {};

TEST_P(SumBlock, IsExactUpToTheEdgesOfItsWindow) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(1);
  constexpr int exponents[] = {127, 100, 0, -70, -100, -120, -126};
  for (const std::size_t n : lengths()) {
    for (const int a_exponent : exponents) {
      const int b_exponent = exponents[random() % std::size(exponents)];
      const Window window = make_window(a_exponent, b_exponent);
      for (const Fill how : kFills) {
        const Fill b_how = kFills[random() % std::size(kFills)];
        SCOPED_TRACE("n " + std::to_string(n) + ", exponents " + std::to_string(a_exponent) + " and " +
                     std::to_string(b_exponent) + ", fill " + std::to_string(static_cast<int>(how)) +
                     " and " + std::to_string(static_cast<int>(b_how)));
        const Floats a = fill(how, window.a_low, window.a_high, n, random);
        const Floats b = fill(b_how, window.b_low, window.b_high, n, random);
        const Window own = make_window(a_exponent, a_exponent);
        ASSERT_EQ(window.a_low, own.a_low);
        ASSERT_EQ(expected_record(a, b), record_of(sum_block(one_row(a, b), window), window));
        ASSERT_EQ(expected_record(a, b), record_by_levels(one_row(a, b)));
        ASSERT_EQ(expected_record(a, a), record_of(sum_block(one_row(a, a), own), own));
        ASSERT_EQ(expected_record(a, a), record_by_levels(one_row(a, a)));
      }
    }
  }
}

TEST_P(SumBlock, TellsTheRange) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(2);
  constexpr Window window{};  // nothing fits
  for (const std::size_t n : lengths()) {
    for (const Kind kind : {Kind::any, Kind::special, Kind::subnormal}) {
      const auto a = draw<float>(kind, n, random);
      const auto b = draw<float>(kind, n, random);
      const auto largest = [](const Floats& values) {
        std::uint32_t max = 0;
        for (const float value : values) max = std::max(max, magnitude(value));
        return max;
      };
      const auto smallest_minus_one = [](const Floats& values) {
        std::uint32_t min = ~0u;
        for (const float value : values) min = std::min(min, magnitude(value) - 1);
        return min;
      };
      const BlockSum pair = sum_block(one_row(a, b), window);
      EXPECT_EQ(largest(a), pair.a.max);
      EXPECT_EQ(largest(b), pair.b.max);
      EXPECT_EQ(smallest_minus_one(a), pair.a.min_minus_one);
      EXPECT_EQ(smallest_minus_one(b), pair.b.min_minus_one);
      const BlockSum squares = sum_block(one_row(a, a), window);
      EXPECT_EQ(largest(a), squares.a.max);
      EXPECT_EQ(smallest_minus_one(a), squares.a.min_minus_one);
    }
  }
}

// Of any two exponents, with data that fills all bits down to the smaller one's; what is not finite counts as
// zero.
TEST_P(SumBlock, LevelsAreExactWhateverTheRange) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(3);
  constexpr int exponents[] = {127, 126, 64, 20, 0, -1, -44, -80, -103, -125, -126};
  const auto bits = [](int exponent) { return static_cast<std::uint32_t>(exponent + 127) << 23; };
  for (const std::size_t n : lengths()) {
    for (const int high : exponents) {
      const int low = exponents[random() % std::size(exponents)];
      if (low > high) continue;
      const Fill how = kFills[random() % std::size(kFills)];
      Floats a = fill(how, bits(low), bits(high) + (1u << 23), n, random);
      Floats b = fill(kFills[random() % std::size(kFills)], bits(low), kInfinityBits, n, random);
      SCOPED_TRACE(fmt::format("n {}, exponents {} to {}, fill {}", n, low, high, static_cast<int>(how)));
      ASSERT_EQ(expected_record(a, b), record_by_levels(one_row(a, b)));
      ASSERT_EQ(expected_record(a, a), record_by_levels(one_row(a, a)));
      Floats a_finite = a, b_finite = b;
      a_finite[n / 2] = b_finite[n / 3] = 0;
      a[n / 2] = random() % 2 != 0 ? std::nanf("") : -std::numeric_limits<float>::infinity();
      b[n / 3] = std::numeric_limits<float>::infinity();
      ASSERT_EQ(expected_record(a_finite, b_finite), record_by_levels(one_row(a, b)));
      ASSERT_EQ(expected_record(a_finite, a_finite), record_by_levels(one_row(a, a)));
    }
  }
}

// Rows of one channel in one block: as if they were one.
TEST_P(SumBlock, RowsAreSummedTogether) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(5);
  const Window window = make_window(2, 2);
  for (const std::size_t n : {1U, 5U, 16U, 31U, 33U, 49U, 100U}) {
    const std::size_t rows = kMaxAdditions / ((n + block_step() - 1) / block_step());
    const std::size_t stride = n + 7;
    Floats a, b, mask, a_rows(rows * stride, 3.0F), b_rows = a_rows, mask_rows = a_rows;
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t i = 0; i < n; ++i) {
        a.push_back(a_rows[row * stride + i] = draw<float>(Kind::ordinary, random));
        b.push_back(b_rows[row * stride + i] = draw<float>(Kind::ordinary, random));
        mask.push_back(mask_rows[row * stride + i] =
                           i % 7 == 3 ? std::nanf("") : draw<float>(Kind::ordinary, random));
      }
    }
    const Rows<float> terms{a_rows.data(), b_rows.data(), nullptr, rows, n, stride};
    ASSERT_EQ(expected_record(a, b), record_of(sum_block(terms, window), window)) << "n " << n;
    Rows<float> rectified = terms;
    rectified.mask = mask_rows.data();
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (mask[i] <= 0) a[i] = 0;
    }
    ASSERT_EQ(expected_record(a, b), record_of(sum_block(rectified, window), window)) << "n " << n;
    ASSERT_EQ(expected_record(a, b), record_by_levels(rectified)) << "n " << n;
  }
}

// One window holds all of float16; only what is not finite needs levels.
TEST_P(SumBlock, HalfWindow) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(4);
  const Window window = half_window();
  for (const std::size_t n : lengths()) {
    for (const Kind kind : {Kind::ordinary, Kind::any, Kind::huge, Kind::positive, Kind::subnormal}) {
      auto a_halves = draw<float16>(kind, n, random);
      const auto b_halves = draw<float16>(kind, n, random);
      Floats a, b;
      for (const float16 value : a_halves) a.push_back(widen(value));
      for (const float16 value : b_halves) b.push_back(widen(value));
      const DType dtype = DType::float16;
      ASSERT_EQ(expected_record(a, b, dtype), record_of(sum_block(one_row(a, b), window), window, dtype));
      ASSERT_EQ(expected_record(a, a, dtype), record_of(sum_block(one_row(a, a), window), window, dtype));
      const Rows<float16> terms{a_halves.data(), b_halves.data(), nullptr, 1, n, n};
      ASSERT_EQ(expected_record(a, b, dtype), record_by_levels(terms));
      a_halves[n / 2] = narrow<float16>(std::numeric_limits<float>::infinity());
      a[n / 2] = 0;
      ASSERT_EQ(expected_record(a, b, dtype), record_by_levels(terms));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, SumBlock, ::testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return isa.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SumBlock);  // where there is the reference only

}  // namespace
}  // namespace syncbn::kernels
