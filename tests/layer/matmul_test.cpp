// SPDX-License-Identifier: Apache-2.0

// all_reduce_matmul: the bits are the oracle's for every split of the rows, number of threads, instruction
// set and kind of data; errors tell every rank.
//
// control: RoundedOnEachRank shows data on which sums that each rank rounds give other bits.

#include <gtest/gtest.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "layer/data.h"
#include "layer/harness.h"
#include "outcome.h"

namespace syncbn::testing {
namespace {

using oracle::Type;

std::string describe(const Matmul& m) {
  std::vector<std::int64_t> rows;
  for (const oracle::Factors& share : m.shares) rows.push_back(share.rows);
  return fmt::format("{}, columns {}x{}, rows {}, threads {}", oracle::name_of(m.type), m.a_columns,
                     m.b_columns, fmt::join(rows, "+"), m.threads);
}

Matmul draw_matmul(Type type, std::int64_t a_columns, std::int64_t b_columns, std::vector<std::int64_t> rows,
                   Kind a_kind, Kind b_kind, Random& random) {
  Matmul m{type, a_columns, b_columns, {}, static_cast<int>(1 + random.below(3))};
  Case c;  // draws tensors of the layer, which are matrices without spatial sizes
  c.settings.input = type;
  for (const std::int64_t count : rows) c.shares.push_back({count, 1, {}, {}, {}});
  c.channels = a_columns;
  const auto a = draw_batch(a_kind, c, random);
  c.channels = b_columns;
  const auto b = draw_batch(b_kind, c, random);
  for (std::size_t r = 0; r < rows.size(); ++r) m.shares.push_back({rows[r], a[r], b[r]});
  return m;
}

class MatmulBits : public ::testing::TestWithParam<std::tuple<Type, Kind>> {};

// Beside small ones: products of several tasks, rows of several blocks, ranks without rows, one product
// alone.
TEST_P(MatmulBits, EqualTheOracles) {
  const auto [type, kind] = GetParam();
  Random random(77 * static_cast<std::uint64_t>(type) + static_cast<std::uint64_t>(kind));
  const struct {
    std::int64_t a_columns, b_columns;
    std::vector<std::int64_t> rows;
  } sizes[] = {{1, 1, {5}},       {3, 2, {4, 0, 3}}, {1, 70, {2, 1}}, {70, 1, {0, 9}}, {9, 15, {1, 6}},
               {5, 13, {300, 1}}, {1, 1, {9000, 2}}, {2, 2, {0, 0}},  {3, 1, {2100}},  {8, 8, {1, 1, 1, 1}}};
  for (const auto& size : sizes) {
    const Kind other = random.chance(2) ? Kind::normal : kKinds[random.below(std::size(kKinds))];
    const Matmul m = draw_matmul(type, size.a_columns, size.b_columns, size.rows, kind, other, random);
    EXPECT_TRUE(same_bits(run_oracle(m), run_library(m))) << name_of(other) << ", " << describe(m);
  }
}

INSTANTIATE_TEST_SUITE_P(Data, MatmulBits,
                         ::testing::Combine(::testing::Values(Type::float32, Type::float64),
                                            ::testing::ValuesIn(kKinds)),
                         [](const auto& param_info) {
                           return fmt::format("{}_{}", oracle::name_of(std::get<0>(param_info.param)),
                                              name_of(std::get<1>(param_info.param)));
                         });

// The rows of `m`, dealt to `ranks` ranks: rank r + 1 gets about twice as many as rank r.
Matmul split(const Matmul& m, std::size_t ranks) {
  Matmul result{m.type, m.a_columns, m.b_columns, std::vector<oracle::Factors>(ranks), m.threads};
  const oracle::Factors& all = m.shares.front();
  std::int64_t row = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    oracle::Factors& share = result.shares[r];
    const std::int64_t end = r + 1 == ranks ? all.rows : all.rows * ((2 << r) - 1) / ((1 << ranks) - 1);
    share.rows = end - row;
    share.a.assign(all.a.begin() + row * m.a_columns, all.a.begin() + end * m.a_columns);
    share.b.assign(all.b.begin() + row * m.b_columns, all.b.begin() + end * m.b_columns);
    row = end;
  }
  return result;
}

TEST(Matmul, SplitThreadsAndInstructionSetDoNotMatter) {
  Random random(5);
  for (const Type type : {Type::float32, Type::float64}) {
    Matmul m = draw_matmul(type, 20, 13, {150}, Kind::wide, Kind::lognormal, random);
    const std::vector<double> expected = run_library(m);
    EXPECT_TRUE(same_bits(run_oracle(m), expected));
    for (const std::string& isa : available_isas()) {
      force_isa(isa);
      for (std::size_t ranks = 1; ranks <= 6; ++ranks) {
        m.threads = static_cast<int>(1 + ranks % 3);
        const Matmul parts = split(m, ranks);
        EXPECT_TRUE(same_bits(expected, run_library(parts))) << isa << ", " << describe(parts);
      }
    }
    force_isa(std::nullopt);
  }
}

TEST(MatmulControl, RoundedOnEachRank) {
  Random random(5);
  const Matmul m = draw_matmul(Type::float32, 20, 13, {150}, Kind::normal, Kind::normal, random);
  std::vector<double> sums(20 * 13);
  for (const oracle::Factors& share : split(m, 3).shares) {
    const std::vector<double> own = run_library({m.type, m.a_columns, m.b_columns, {share}});
    for (std::size_t i = 0; i < own.size(); ++i)
      sums[i] = static_cast<double>(static_cast<float>(sums[i]) + static_cast<float>(own[i]));
  }
  EXPECT_FALSE(same_bits(run_oracle(m), sums));
}

// More products than one message takes, the last message being short.
TEST(Matmul, SeveralMessages) {
  Random random(6);
  for (const Type type : {Type::float32, Type::float64}) {
    const Matmul m = draw_matmul(type, 131, 127, {1, 2}, Kind::normal, Kind::normal, random);
    EXPECT_TRUE(same_bits(run_oracle(m), run_library(m)));
  }
}

TEST(Matmul, SpecialValuesAndZeros) {
  constexpr double kInf = std::numeric_limits<double>::infinity(),
                   kNan = std::numeric_limits<double>::quiet_NaN();
  const struct {
    std::vector<std::vector<double>> a, b;  // one column each, of each rank
    double expected;
  } cases[] = {
      {{{kInf}, {1}}, {{2}, {3}}, kInf},
      {{{kInf}, {1}}, {{-2}, {3}}, -kInf},
      {{{kInf}, {1}}, {{0}, {3}}, kNan},      // ∞·0
      {{{0}, {1}}, {{kNan}, {3}}, kNan},      // 0·NaN
      {{{kInf}, {kInf}}, {{1}, {-1}}, kNan},  // ∞ − ∞
      {{{1}, {kInf}}, {{-kInf}, {-1}}, -kInf},
      {{{-0.0}, {-0.0}}, {{1}, {1}}, 0.0},  // an exact zero is +0
      {{{-1}, {}}, {{0}, {}}, 0.0},
      {{{1, 3}, {-1}}, {{3, 1}, {6}}, 0.0},
      {{{}, {}}, {{}, {}}, 0.0},                                   // no rows at all
      {{{0x1p-100}, {}}, {{-0x1p-100}, {}}, -0.0},                 // too small: the zero of its sign
      {{{0x1p100}, {}}, {{-0x1p100}, {}}, -kInf},                  // too large: the infinity of its sign
      {{{0x1p100, 1}, {-0x1p100}}, {{0x1p100, 1}, {0x1p100}}, 1},  // products beyond the range cancel
      {{{0x1p-75, 0x1p-100}, {}}, {{0x1p-75, 0x1p-100}, {}}, 0x1p-149},  // a tie, broken by 2^-200: upwards
      {{{0x1p-75}, {}}, {{0x1p-75}, {}}, 0.0},                           // the tie: to even
  };
  for (const auto& c : cases) {
    const auto rows = [&](std::size_t r) { return static_cast<std::int64_t>(c.a[r].size()); };
    const Matmul m{Type::float32, 1, 1, {{rows(0), c.a[0], c.b[0]}, {rows(1), c.a[1], c.b[1]}}};
    EXPECT_TRUE(same_bits({c.expected}, run_library(m)));
    EXPECT_TRUE(same_bits({c.expected}, run_oracle(m)));
  }
}

// One rounding: through double a sum just above a tie of float32 becomes the tie, and then the even
// neighbour.
TEST(Matmul, RoundsOnce) {
  const Matmul m{Type::float32, 1, 1, {{3, {1, 0x1p-24, 0x1p-60}, {1, 1, 1}}}};
  EXPECT_TRUE(same_bits({1 + 0x1p-23}, run_library(m)));
  EXPECT_EQ(static_cast<float>(1 + 0x1p-24 + 0x1p-60), 1);  // control: twice rounded
}

// ---- Errors

// A rank's own error reaches its peers; c stays as it was.
TEST(Matmul, RefusesArguments) {
  std::vector<float> values(12, 7), room(4, 9);
  const std::vector<double> doubles(12, 7);
  const std::vector<float16> halves(12);
  const auto matrix = [](auto* data, const Shape& shape) {
    using Storage = std::remove_pointer_t<decltype(data)>;
    if constexpr (std::is_const_v<Storage>) {
      return ConstTensorView{data, dtype_of<std::remove_const_t<Storage>>, shape};
    } else {
      return TensorView{data, dtype_of<Storage>, shape};
    }
  };
  const ConstTensorView a = matrix(values.data(), {3, 2}), b = matrix(values.data() + 6, {3, 2});
  const TensorView c = matrix(room.data(), {2, 2});
  auto* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(values.data()) + 1);
  auto* const null = static_cast<float*>(nullptr);
  const Device unknown{static_cast<Device::Type>(9), 1};
  struct Refused {
    ConstTensorView a, b;
    TensorView c;
    std::vector<std::string> facts;
  };
  const std::vector<Refused> cases = {
      {matrix(halves.data(), {3, 2}), b, c, {"a", "float16", "float32 or float64"}},
      {a, matrix(doubles.data(), {3, 2}), c, {"b", "float64", "a's float32"}},
      {a, b, {room.data(), DType::float64, {1, 2}}, {"c", "float64", "a's float32"}},
      {matrix(values.data(), {3, 2, 2}), b, c, {"a", "(3, 2, 2)", "two dimensions"}},
      {a, matrix(values.data(), {3, 4, 1}), c, {"b", "(3, 4, 1)", "two dimensions"}},
      {a, matrix(values.data(), {6, 2}), c, {"b", "(6, 2)", "3 rows", "(3, 2)"}},
      {a, b, matrix(room.data(), {4, 1}), {"c", "(4, 1)", "(2, 2)"}},
      {a, b, matrix(values.data(), {6, 2}), {"c", "(6, 2)", "(2, 2)"}},
      {matrix(null, {3, 2}), b, c, {"a", "null", "6 elements"}},
      {a, matrix(odd, {3, 2}), c, {"b", fmt::format("{}", static_cast<void*>(odd)), "4 bytes", "float32"}},
      {a, b, matrix(null, {2, 2}), {"c", "null", "4 elements"}},
      {a, b, matrix(values.data() + 4, {2, 2}), {"c", "overlap ... a"}},
      {a, b, matrix(values.data() + 8, {2, 2}), {"c", "overlap ... b"}},
      {a, {b.data, b.dtype, b.shape, b.layout, guarded_device()}, c, {"b", "guarded:0 ... a's cpu:0"}},
      {{a.data, a.dtype, a.shape, a.layout, unknown}, b, c, {"a", "type 9:1"}},
  };
  for (const Refused& bad : cases) {
    SCOPED_TRACE(bad.facts[0] + " " + bad.facts[1]);
    const auto text = outcomes(2, [&](int rank) {
      std::vector<float> good(4, 9);
      if (rank == 0) return all_reduce_matmul(bad.a, bad.b, bad.c);
      all_reduce_matmul(a, b, syncbn::view(good, {2, 2}));
    });
    expect_error<InvalidArgument>(text[0], bad.facts);
    expect_error<PeerError>(text[1], {"'world'", "call 1", "all_reduce_matmul", "rank 1 ... rank 0"});
    expect_error<PeerError>(text[1], bad.facts);
    EXPECT_EQ(room, std::vector<float>(4, 9));
    EXPECT_EQ(values, std::vector<float>(12, 7));
  }
}

TEST(Matmul, Mismatches) {
  const auto call = [](std::int64_t a_columns, std::int64_t b_columns, auto zero) {
    std::vector<decltype(zero)> a(static_cast<std::size_t>(a_columns)),
        b(static_cast<std::size_t>(b_columns)), c(a.size() * b.size());
    all_reduce_matmul(syncbn::view(a, {1, a_columns}), syncbn::view(b, {1, b_columns}),
                      syncbn::view(c, {a_columns, b_columns}));
  };
  const struct {
    std::function<void()> of_rank_1;
    std::string facts;  // what rank 1 and what the others brought
  } cases[] = {
      {[&] { call(3, 2, 0.0F); }, "all_reduce_matmul ... columns=3x2 ... ranks 0, 2 ... columns=2x3"},
      {[&] { call(2, 3, 0.0); }, "all_reduce_matmul ... type=float64 ... ranks 0, 2 ... type=float32"},
      {[&] {
         std::vector<float> values(6);
         all_reduce_sum(values);
       },
       "all_reduce_sum ... values=6 ... ranks 0, 2 ... all_reduce_matmul ... columns=2x3"},
  };
  for (const auto& other : cases) {
    for (const std::string& text :
         outcomes(3, [&](int rank) { rank == 1 ? other.of_rank_1() : call(2, 3, 0.0F); })) {
      expect_error<MismatchError>(text, {"'world'", "call 1", "rank 1 ... " + other.facts});
    }
  }
  expect_error<GroupError>(
      [&] {
        std::vector<float> one(1), c(1);
        all_reduce_matmul(syncbn::view(one, {1, 1}), syncbn::view(one, {1, 1}), syncbn::view(c, {1, 1}),
                          "nonesuch");
      },
      {"'nonesuch'"});
}

}  // namespace
}  // namespace syncbn::testing
