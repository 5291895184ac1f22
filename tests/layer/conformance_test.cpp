// SPDX-License-Identifier: Apache-2.0

// The numbers of the MindSpore reference: small groups on linspace inputs, from exact arithmetic, printed
// with eight digits. Tolerance: 1e-6 of the largest value of each list. Inputs are written in double, then
// rounded to float.
//
// control: with the rank's own count in place of the group's, or the biased variance in running_var, every
// case but A fails.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layer/test_device.h"

namespace syncbn::testing {
namespace {

using Values = std::vector<double>;
using Numbers = DeviceVector<float>;

Numbers linspace(double first, double last, const Shape& shape) {
  const auto size = static_cast<std::size_t>(shape.elements());
  const double step = size > 1 ? (last - first) / static_cast<double>(size - 1) : 0.0;
  Numbers x(size);
  for (std::size_t i = 0; i < size; ++i) x[i] = static_cast<float>(first + static_cast<double>(i) * step);
  if (size > 1) x.back() = static_cast<float>(last);
  return x;
}

Numbers upstream_gradient(const Shape& shape) {
  Numbers dy(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < dy.size(); ++i) {
    dy[i] = static_cast<float>(static_cast<int>(i * 7 % 11) - 5) / 8.0F;
  }
  return dy;
}

// What one rank sees of a forward and a backward.
struct Seen {
  Values mean, var, y, dx, gw, gb, rm, rv;
};

Values widened(const auto& values) { return {values.begin(), values.end()}; }

Seen step(SyncBatchNorm& layer, const Shape& shape, const Numbers& x) {
  const Numbers dy = upstream_gradient(shape);
  Numbers y(x.size()), dx(x.size());
  layer.forward(view(x, shape), view(y, shape));
  layer.backward(view(dy, shape), view(x, shape), view(dx, shape));
  Seen seen;
  seen.mean = layer.saved().mean;
  seen.var = layer.saved().var;
  if (!y.empty()) {
    seen.y = widened(Numbers{y[0], y[1], y.back()});
    seen.dx = widened(Numbers(dx.begin(), dx.begin() + 4));
  }
  seen.gw = widened(layer.values<float>("weight_grad"));
  seen.gb = widened(layer.values<float>("bias_grad"));
  seen.rm = widened(layer.values<float>("running_mean"));
  seen.rv = widened(layer.values<float>("running_var"));
  return seen;
}

void expect_near(const char* what, const Values& expected, const Values& actual) {
  ASSERT_EQ(expected.size(), actual.size()) << what;
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(expected[i], actual[i], 1e-6 * largest) << what << "[" << i << "]";
  }
}

void expect_statistics(const Seen& expected, const Seen& actual) {
  expect_near("mean", expected.mean, actual.mean);
  expect_near("var", expected.var, actual.var);
  expect_near("rm", expected.rm, actual.rm);
  expect_near("rv", expected.rv, actual.rv);
}

void expect_outputs(const Seen& expected, const Seen& actual) {
  expect_near("y", expected.y, actual.y);
  expect_near("dx", expected.dx, actual.dx);
  expect_near("gw", expected.gw, actual.gw);
  expect_near("gb", expected.gb, actual.gb);
}

// A fresh layer a rank, one step in the world.
struct Share {
  double first, last;
  Shape shape;
};
std::vector<Seen> steps(
    const std::vector<Share>& shares,
    const std::function<void(SyncBatchNorm&)>& prepare = [](SyncBatchNorm&) {}) {
  std::vector<Seen> seen(shares.size());
  run_ranks(static_cast<int>(shares.size()), [&](int rank) {
    const Share& share = shares[static_cast<std::size_t>(rank)];
    SyncBatchNorm layer(share.shape.channels());
    prepare(layer);
    seen[static_cast<std::size_t>(rank)] =
        step(layer, share.shape, linspace(share.first, share.last, share.shape));
  });
  return seen;
}

TEST(Conformance, AEvaluation) {
  SyncBatchNorm layer(2);
  layer.set_train(false);
  const Shape shape{2, 2, 2, 2};
  const Seen seen = step(layer, shape, linspace(0, 5, shape));
  expect_near("y", {0, 0.33333168, 4.9999750}, seen.y);
  expect_near("dx", {-0.62499688, 0.24999875, -0.24999875, 0.62499688}, seen.dx);
  expect_near("gw", {-2.3749882, 3.9999799}, seen.gw);
  expect_near("gb", {-0.875, 1}, seen.gb);
  EXPECT_EQ(seen.rm, (Values{0, 0}));
  EXPECT_EQ(seen.rv, (Values{1, 1}));
}

Seen numbers_of_b() {
  return {{1.8333333, 3.1666667},
          {1.9166667, 1.9166667},
          {-1.3242409, -1.0834699, 1.3242409},
          {-0.43901431, 0.20511368, -0.14393901, 0.50018898},
          {-0.55678317, 0.60192762},
          {-0.875, 1},
          {0.18333333, 0.31666667},
          {1.1044444, 1.1044444}};
}
Seen numbers_of_c() {
  return {{3.6666667, 6.3333333},
          {7.6666667, 7.6666667},
          {-1.3242435, -1.0834720, 1.3242435},
          {-0.21950772, 0.10255694, -0.071969730, 0.25009492},
          {-0.55678426, 0.60192879},
          {-0.875, 1},
          {0.36666667, 0.63333333},
          {1.7177778, 1.7177778}};
}

TEST(Conformance, BAndCAtTheSameTime) {
  const Shape shape{2, 2, 2, 2};
  std::vector<Seen> seen(4);
  run_ranks(4, [&](int rank) {
    const bool of_b = rank < 2;
    const std::string group = of_b ? "0-1" : "2-3";
    create_group(group, of_b ? std::vector{0, 1} : std::vector{2, 3});
    SyncBatchNormOptions options;
    options.process_group = group;
    SyncBatchNorm layer(2, options);
    seen[static_cast<std::size_t>(rank)] = step(layer, shape, linspace(0, of_b ? 5 : 10, shape));
  });
  for (std::size_t r = 0; r < 4; ++r) {
    SCOPED_TRACE("rank " + std::to_string(r));
    expect_statistics(r < 2 ? numbers_of_b() : numbers_of_c(), seen[r]);
    expect_outputs(r < 2 ? numbers_of_b() : numbers_of_c(), seen[r]);
  }
}

// Two groups of four at once, in an order of their own: twice the count gives var_unb n/(n-1) of 32 instead
// of 16.
TEST(Conformance, BAndCInGroupsOfFour) {
  const Shape shape{2, 2, 2, 2};
  const auto with_four = [](Seen two) {
    for (std::size_t c = 0; c < 2; ++c) two.rv[c] = 0.9 + 0.1 * two.var[c] * 32 / 31;
    return two;
  };
  std::vector<Seen> seen(8);
  run_ranks(8, [&](int rank) {
    const bool of_b = rank % 2 == 0;
    const std::string group = of_b ? "even" : "odd";
    create_group(group, of_b ? std::vector{6, 0, 4, 2} : std::vector{1, 3, 5, 7});
    SyncBatchNormOptions options;
    options.process_group = group;
    SyncBatchNorm layer(2, options);
    seen[static_cast<std::size_t>(rank)] = step(layer, shape, linspace(0, of_b ? 5 : 10, shape));
  });
  for (std::size_t r = 0; r < 8; ++r) {
    SCOPED_TRACE("rank " + std::to_string(r));
    const Seen expected = with_four(r % 2 == 0 ? numbers_of_b() : numbers_of_c());
    expect_statistics(expected, seen[r]);
    expect_outputs(expected, seen[r]);
  }
}

TEST(Conformance, DThreeRanks) {
  const Seen expected{{1.9375, 2.5, 3.0625},
                      {1.9244792, 1.9244792, 1.9244792},
                      {-1.3966384, -1.3515855, 1.3966384},
                      {-0.40658894, 0.22348715, -0.13759950, 0.49247659},
                      {0.55189743, -1.3065327, 0.55189743},
                      {-0.875, 0, 0.875},
                      {0.19375000, 0.25000000, 0.30625000},
                      {1.0948535, 1.0948535, 1.0948535}};
  for (const Seen& seen : steps(std::vector<Share>(3, {0, 5, {3, 3, 3, 3}}))) {
    expect_statistics(expected, seen);
    expect_outputs(expected, seen);
  }
}

// E and F: rank 0 has two samples, rank 1 three.
const std::vector<Share> kUnequal = {{0, 5, {2, 3, 2, 2}}, {0, 5, {3, 3, 3, 3}}};

std::vector<Seen> numbers_of_e() {
  Seen rank0{{1.8673137, 2.5000000, 3.1326863},     {1.9036003, 1.8869747, 1.9036003},
             {-1.3534065, -1.1958439, 1.3534065},   {-0.41155619, 0.21811065, -0.14880596, 0.48086088},
             {0.87569637, -0.62312983, 0.39947758}, {0.75, -0.125, -1},
             {0.18673137, 0.25000000, 0.31326863},  {1.0959589, 1.0942474, 1.0959589}};
  Seen rank1 = rank0;
  rank1.y = {-1.3534065, -1.3081072, 1.3534065};
  rank1.dx = {-0.41155619, 0.22133302, -0.14236122, 0.49052800};
  rank1.gw = {0.51040435, -1.3194527, 0.51040436};
  rank1.gb = {-0.875, 0, 0.875};
  return {rank0, rank1};
}

TEST(Conformance, EUnequalCounts) {
  const std::vector<Seen> seen = steps(kUnequal);
  for (std::size_t r = 0; r < 2; ++r) {
    SCOPED_TRACE("rank " + std::to_string(r));
    expect_statistics(numbers_of_e()[r], seen[r]);
    expect_outputs(numbers_of_e()[r], seen[r]);
  }
}

// A further rank without samples leaves every number as it is, here to the bit, and has the group's
// statistics.
TEST(Conformance, EWithAnEmptyRank) {
  const std::vector<Seen> without = steps(kUnequal);
  for (std::size_t at = 0; at <= 2; ++at) {
    SCOPED_TRACE("empty rank " + std::to_string(at));
    std::vector<Share> shares = kUnequal;
    shares.insert(shares.begin() + static_cast<std::ptrdiff_t>(at), {0, 5, {0, 3, 3, 3}});
    std::vector<Seen> seen = steps(shares);
    const Seen empty = seen[at];
    expect_statistics(numbers_of_e()[0], empty);
    EXPECT_EQ(empty.gw, (Values{0, 0, 0}));
    EXPECT_EQ(empty.gb, (Values{0, 0, 0}));
    seen.erase(seen.begin() + static_cast<std::ptrdiff_t>(at));
    for (std::size_t r = 0; r < 2; ++r) {
      SCOPED_TRACE("rank " + std::to_string(r));
      expect_statistics(numbers_of_e()[r], seen[r]);
      expect_outputs(numbers_of_e()[r], seen[r]);
      EXPECT_EQ(without[r].mean, seen[r].mean);
      EXPECT_EQ(without[r].y, seen[r].y);
      EXPECT_EQ(without[r].dx, seen[r].dx);
      EXPECT_EQ(without[r].rv, seen[r].rv);
    }
  }
}

TEST(Conformance, FWeightAndBias) {
  std::vector<Seen> expected = numbers_of_e();
  expected[0].y = {-0.42670324, -0.34792194, -0.29318704};
  expected[0].dx = {-0.20577810, 0.10905533, -0.074402980, 0.24043044};
  expected[1].y = {-0.42670324, -0.40405361, -0.29318704};
  expected[1].dx = {-0.20577810, 0.11066651, -0.071180608, 0.24526400};
  const std::vector<Seen> seen = steps(kUnequal, [](SyncBatchNorm& layer) {
    std::ranges::copy(Numbers{0.5F, -1.25F, 2}, layer.values<float>("weight").begin());
    std::ranges::copy(Numbers{0.25F, 0, -3}, layer.values<float>("bias").begin());
  });
  for (std::size_t r = 0; r < 2; ++r) {
    SCOPED_TRACE("rank " + std::to_string(r));
    expect_statistics(expected[r], seen[r]);
    expect_outputs(expected[r], seen[r]);
  }
}

// MindSpore's own check of local gradients: with dy = 1 the bias gradients are the counts 8 and 27, not 35.
TEST(Conformance, EGradientsAreLocal) {
  run_ranks(2, [&](int rank) {
    const Share& share = kUnequal[static_cast<std::size_t>(rank)];
    const Numbers x = linspace(share.first, share.last, share.shape);
    const Numbers dy(x.size(), 1.0F);
    Numbers y(x.size()), dx(x.size());
    SyncBatchNorm layer(3);
    layer.forward(view(x, share.shape), view(y, share.shape));
    layer.backward(view(dy, share.shape), view(x, share.shape), view(dx, share.shape));
    for (const float gradient : layer.values<float>("bias_grad")) EXPECT_EQ(gradient, rank == 0 ? 8 : 27);
  });
}

TEST(Conformance, GTwoDimensions) {
  Seen rank0{{1.3303030, 1.8333333, 2.3363637},     {2.8424701, 2.7084757, 2.5838843},
             {-0.78904516, -0.83778810, 1.6570574}, {-0.28551689, 0.021690563, 0.017766496, 0.27990703},
             {1.5338301, -0.41659243, -1.2032047},  {0.875, 0.25, -1.75},
             {0.13303030, 0.18333333, 0.23363637},  {1.2410964, 1.2250171, 1.2100661}};
  Seen rank1 = rank0;
  rank1.y = {-1.3821771, -1.3570326, -0.20925300};
  rank1.dx = {-0.15645685, -0.019786146, -0.018479622, 0.35264996};
  rank1.gw = {0.66727340, -0.37217126, 0.41072969};
  rank1.gb = {0, 0.375, -0.625};
  const std::vector<Seen> seen = steps({{0, 5, {4, 3}}, {-1, 2, {2, 3}}});
  expect_statistics(rank0, seen[0]);
  expect_outputs(rank0, seen[0]);
  expect_statistics(rank1, seen[1]);
  expect_outputs(rank1, seen[1]);
}

// The case that loses digits in MindSpore (y off by 3e-4): a mean 10,000 times the deviation.
TEST(Conformance, HLargeMean) {
  Seen rank0{{10001.294, 10002.373},
             {1.8688695, 2.5461698},
             {-0.94633156, -0.70273914, 1.6463465},
             {-0.44652416, 0.20451709, -0.15021041, 0.50083085},
             {-0.90960964, 1.0197291},
             {-0.875, 1},
             {1000.1294, 1000.2373},
             {1.1038767, 1.1777640}};
  Seen rank1 = rank0;
  rank1.y = {-0.94633156, -0.84203686, -0.86042909};
  rank1.dx = {-0.44652416, 0.19823473, -0.16277514, 0.48198374};
  rank1.gw = {0.16974677, -0.22612338};
  rank1.gb = {0, 0.25};
  const std::vector<Seen> seen = steps({{10000, 10005, {2, 2, 2, 2}}, {10000, 10001, {1, 2, 2, 2}}});
  expect_statistics(rank0, seen[0]);
  expect_outputs(rank0, seen[0]);
  expect_statistics(rank1, seen[1]);
  expect_outputs(rank1, seen[1]);
}

TEST(Conformance, MCumulativeAverage) {
  const Shape shape{2, 2, 2, 2};
  std::vector<std::vector<Seen>> seen(2);
  run_ranks(2, [&](int rank) {
    SyncBatchNormOptions options;
    options.momentum.reset();
    SyncBatchNorm layer(2, options);
    for (int k = 1; k <= 3; ++k) {
      seen[static_cast<std::size_t>(rank)].push_back(step(layer, shape, linspace(rank, 2 * rank + k, shape)));
    }
  });
  const std::vector<Seen> statistics = {{{1.0500000, 1.4500000},
                                         {0.65861109, 0.85861107},
                                         {},
                                         {},
                                         {},
                                         {},
                                         {1.0500000, 1.4500000},
                                         {0.70251850, 0.91585180}},
                                        {{1.4166667, 2.0833333},
                                         {0.96527776, 1.1652778},
                                         {},
                                         {},
                                         {},
                                         {},
                                         {1.2333333, 1.7666667},
                                         {0.86607405, 1.0794074}},
                                        {{1.7833334, 2.7166666},
                                         {1.4252779, 1.6252777},
                                         {},
                                         {},
                                         {},
                                         {},
                                         {1.4166667, 2.0833333},
                                         {1.0841482, 1.2974814}}};
  for (std::size_t r = 0; r < 2; ++r) {
    for (std::size_t k = 0; k < 3; ++k) {
      SCOPED_TRACE("rank " + std::to_string(r) + ", M" + std::to_string(k + 1));
      expect_statistics(statistics[k], seen[r][k]);
    }
  }
  expect_outputs({{},
                  {},
                  {-1.4937614, -1.3262368, 0.22224532},
                  {-0.50258772, 0.23826025, -0.17262371, 0.56822427},
                  {0.11342812, -0.24839171},
                  {-0.875, 1},
                  {},
                  {}},
                 seen[0][2]);
  expect_outputs({{},
                  {},
                  {-0.65613821, -0.43277203, 1.7910355},
                  {-0.46294945, 0.28054107, -0.12770034, 0.61579019},
                  {-1.0173633, 1.1635193},
                  {-0.875, 1},
                  {},
                  {}},
                 seen[1][2]);
}

}  // namespace
}  // namespace syncbn::testing
