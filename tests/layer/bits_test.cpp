// SPDX-License-Identifier: Apache-2.0

// The library's bits are the oracle's: statistics, running statistics, outputs and every gradient, over
// element types, parameter types, layouts, shapes, fused forms, options and data that break ordinary sums.
//
// control: each of these, tried one at a time, makes it fail: flP by way of float; ReLU's mask left out of
// the gradient sums; c1 from c2 instead of c2_64; the low part of a block's products dropped; m2 in double
// arithmetic; skip_update ignored.

#include <gtest/gtest.h>

#include <fmt/core.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "layer/data.h"
#include "layer/harness.h"

namespace syncbn::testing {
namespace {

struct Size {
  std::int64_t channels;
  std::vector<std::pair<std::int64_t, std::int64_t>> shares;  // samples, places
  int spatial_dims;
};

// Beside small ones: (N, C); more channels than are read together; rows longer than a block; uneven and empty
// shares.
const std::vector<Size> kSizes = {
    {3, {{7, 1}}, 0},           {2, {{4, 6}}, 2},
    {1, {{2, 1}}, 0},           {5, {{2, 9}, {0, 9}, {5, 9}}, 1},
    {2, {{1, 12}, {3, 30}}, 3}, {19, {{9, 2}, {3, 2}}, 2},
    {1, {{1, 2500}}, 1},        {2, {{2, 600}, {1, 30}}, 1},
    {17, {{130, 1}}, 0},
};

void randomize_options(Case& c, Random& random) {
  constexpr double kEps[] = {1e-5, 1e-3, 0.0, 1.0, 1e-300, 1e300};
  constexpr double kMomentum[] = {0.1, 0.0, 1.0, 0.37};
  c.settings.parameters = oracle::kTypes[random.below(4)];
  c.settings.eps = kEps[random.below(6)];
  c.settings.momentum.reset();
  if (!random.chance(4)) c.settings.momentum = kMomentum[random.below(4)];
  c.settings.group_gradients = random.chance(2);
  c.settings.skip_nonfinite_update = random.chance(3);
  c.threads = 1 + static_cast<int>(random.below(2));
}

class Bits : public ::testing::TestWithParam<std::tuple<oracle::Type, Kind>> {};

TEST_P(Bits, EqualTheOracles) {
  const auto [type, kind] = GetParam();
  Random random(1000 * static_cast<std::uint64_t>(type) + static_cast<std::uint64_t>(kind));
  for (const Size& size : kSizes) {
    for (const bool relu : {false, true}) {
      for (const bool residual : {false, true}) {
        Case c;
        c.settings.input = type;
        c.settings.relu = relu;
        c.channels = size.channels;
        c.spatial_dims = size.spatial_dims;
        randomize_options(c, random);
        c.training = !random.chance(4);
        for (const auto& [samples, places] : size.shares) {
          c.shares.push_back({samples, places, {}, {}, {}});
          if (!c.training) break;
        }
        const Kind dy_kind = random.chance(2) ? Kind::normal : kKinds[random.below(std::size(kKinds))];
        fill(c, kind, dy_kind, residual, random);
        fill_state(c, !random.chance(4), !random.chance(4), random);
        const oracle::Result expected = run_oracle(c);
        for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
          c.layout = layout;
          EXPECT_TRUE(same_bits(expected, run_library(c)))
              << "dy " << name_of(dy_kind) << ", " << describe(c);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Data, Bits,
                         ::testing::Combine(::testing::ValuesIn(oracle::kTypes), ::testing::ValuesIn(kKinds)),
                         [](const auto& param_info) {
                           return fmt::format("{}_{}", oracle::name_of(std::get<0>(param_info.param)),
                                              name_of(std::get<1>(param_info.param)));
                         });

// Every 16-bit pattern once, as x with running statistics and as a residual, forward and backward.
class EveryPattern : public ::testing::TestWithParam<oracle::Type> {};

TEST_P(EveryPattern, InEvaluation) {
  Case c;
  c.settings.input = GetParam();
  c.settings.parameters = oracle::Type::float64;
  c.settings.relu = true;
  c.training = false;
  oracle::Share share{256, 256, {}, {}, {}};
  for (std::uint64_t bits = 0; bits < 65536; ++bits) {
    share.x.push_back(oracle::decode(GetParam(), bits));
    share.residual.push_back(oracle::decode(GetParam(), 65535 - bits));
    share.dy.push_back(oracle::decode(GetParam(), bits ^ 0x5555));
  }
  c.shares = {share};
  c.state = {{0.9}, {0.05}, {0.1}, {1.5}, 3};
  EXPECT_TRUE(same_bits(run_oracle(c), run_library(c)));
}

TEST_P(EveryPattern, InTrainingWhereFinite) {
  Case c;
  c.settings.input = GetParam();
  oracle::Share share{0, 1, {}, {}, {}};
  for (std::uint64_t bits = 0; bits < 65536; ++bits) {
    const double value = oracle::decode(GetParam(), bits);
    if (!std::isfinite(value)) continue;
    share.x.push_back(value);
    share.dy.push_back(oracle::decode(GetParam(), bits ^ 1));
    ++share.samples;
  }
  c.shares = {share};
  c.spatial_dims = 0;
  EXPECT_TRUE(same_bits(run_oracle(c), run_library(c)));
}

INSTANTIATE_TEST_SUITE_P(Data, EveryPattern, ::testing::Values(oracle::Type::float16, oracle::Type::bfloat16),
                         [](const auto& param_info) { return oracle::name_of(param_info.param); });

// Evaluation gradients with running means from end to end of double's range: the widest sums there are.
TEST(EvaluationGradients, AnyRunningMean) {
  Random random(11);
  for (const oracle::Type type : oracle::kTypes) {
    Case c;
    c.settings.input = type;
    c.settings.parameters = oracle::Type::float64;
    c.training = false;
    c.channels = 7;
    c.shares = {{3, 5, {}, {}, {}}};
    for (const Kind kind : {Kind::normal, Kind::finite, Kind::cancelling}) {
      fill(c, kind, kind, false, random);
      fill_state(c, true, true, random);
      c.state.running_mean = {1e300, 1e-310, -1e300, 0x1p-1074, -0.0, 1.7976931348623157e308, 3.5};
      c.state.running_var = {1e-300, 0, 1.7976931348623157e308, 1e-310, 1, 2, 1e300};
      EXPECT_TRUE(same_bits(run_oracle(c), run_library(c))) << name_of(kind) << ", " << describe(c);
    }
  }
}

}  // namespace
}  // namespace syncbn::testing
