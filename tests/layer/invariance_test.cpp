// SPDX-License-Identifier: Apache-2.0

// The same bits for every number of ranks, split of the batch, number of threads, memory layout, instruction
// set and floating-point environment of the caller.
//
// control: beside the control tests below, each of these, tried one at a time, makes it fail: FpEnvironment
// made empty (environments); the last slice of a channel not merged (ThreadsShareAChannel); a block's tail
// dropped in the AVX2 kernel alone (instruction sets); the rank's own count in place of the group's (splits).

#include <gtest/gtest.h>

#include <fmt/core.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels/plan.h"
#include "kernels/reference.h"
#include "layer/data.h"
#include "layer/harness.h"

namespace syncbn::testing {
namespace {

#if defined(__x86_64__)
constexpr unsigned kDefaultEnvironment = 0x1f80;
constexpr unsigned kFlushToZero = 0x8000 | 0x0040;  // FTZ and DAZ
constexpr unsigned kRoundUpward = 0x4000;

struct Environment {
  const char* name;
  unsigned mode;
};
constexpr Environment kEnvironments[] = {
    {"default", kDefaultEnvironment},
    {"FTZ and DAZ", kDefaultEnvironment | kFlushToZero},
    {"upward", kDefaultEnvironment | kRoundUpward},
    {"FTZ, DAZ and downward", kDefaultEnvironment | kFlushToZero | 0x2000},
};

// The layer runs in this environment and must leave it as it is.
void run_in(const Environment& environment, Case& c) {
  c.before_calls = [&environment] { _mm_setcsr(environment.mode); };
  c.after_calls = [&environment] {
    const unsigned after = _mm_getcsr();
    _mm_setcsr(kDefaultEnvironment);
    constexpr unsigned kFlags = 0x3f;  // exceptions that happened
    EXPECT_EQ(after & ~kFlags, environment.mode) << environment.name;
  };
}
#else
struct Environment {
  const char* name;
};
constexpr Environment kEnvironments[] = {{"default"}};
void run_in(const Environment&, Case&) {}
#endif

class ForcedIsa {
 public:
  explicit ForcedIsa(const std::string& name) { force_isa(name); }
  ~ForcedIsa() { force_isa(std::nullopt); }
};

// Whether steps are fused and results streamed, by chance: the fused way is taken by groups of one only.
class ForcedPaths {
 public:
  explicit ForcedPaths(Random& random) { kernels::forced_paths() = {random.chance(2), random.chance(2)}; }
  ~ForcedPaths() { kernels::forced_paths() = {}; }
  std::string text() const {
    return fmt::format("blocked {}, streaming {}, ", *kernels::forced_paths().blocked,
                       *kernels::forced_paths().streaming);
  }
};

// `whole` has one share. The same batch, its samples dealt out at random; half of the ranks may get none.
Case split(const Case& whole, std::int64_t ranks, Random& random) {
  const oracle::Share& batch = whole.shares.front();
  std::vector<std::int64_t> cuts{0};
  for (std::int64_t r = 1; r < ranks; ++r) {
    cuts.push_back(random.chance(3) ? cuts.back() : random.below(batch.samples + 1));
  }
  cuts.push_back(batch.samples);
  std::ranges::sort(cuts);
  Case c = whole;
  c.shares.clear();
  const std::int64_t size = whole.channels * batch.places;
  for (std::size_t r = 0; r < static_cast<std::size_t>(ranks); ++r) {
    oracle::Share share{cuts[r + 1] - cuts[r], batch.places, {}, {}, {}};
    const auto part = [&](const std::vector<double>& values) {
      if (values.empty()) return values;
      return std::vector<double>(values.begin() + cuts[r] * size, values.begin() + cuts[r + 1] * size);
    };
    share.x = part(batch.x);
    share.residual = part(batch.residual);
    share.dy = part(batch.dy);
    c.shares.push_back(share);
  }
  return c;
}

// As if one rank had had it all. Group gradients are the same on every rank.
oracle::Result joined(const oracle::Result& parts) {
  oracle::Result whole = parts;
  whole.ranks.resize(1);
  oracle::RankResult& all = whole.ranks.front();
  for (std::size_t r = 1; r < parts.ranks.size(); ++r) {
    const oracle::RankResult& part = parts.ranks[r];
    all.y.insert(all.y.end(), part.y.begin(), part.y.end());
    all.dx.insert(all.dx.end(), part.dx.begin(), part.dx.end());
    all.d_residual.insert(all.d_residual.end(), part.d_residual.begin(), part.d_residual.end());
    EXPECT_TRUE(same_bits(all.weight_grad, part.weight_grad)) << "weight_grad of rank " << r;
    EXPECT_TRUE(same_bits(all.bias_grad, part.bias_grad)) << "bias_grad of rank " << r;
  }
  return whole;
}

Case whole_batch(oracle::Type type, Kind kind, std::int64_t samples, std::int64_t places, Random& random) {
  Case c;
  c.settings.input = type;
  c.settings.parameters = oracle::Type::float32;
  c.settings.group_gradients = true;
  c.settings.relu = random.chance(2);
  c.channels = 3;
  c.shares = {{samples, places, {}, {}, {}}};
  fill(c, kind, kind == Kind::subnormal ? Kind::subnormal : Kind::normal, random.chance(2), random);
  fill_state(c, true, true, random);
  return c;
}

class Invariance : public ::testing::TestWithParam<oracle::Type> {};

TEST_P(Invariance, RanksSplitsThreadsLayoutsIsasEnvironments) {
  Random random(5 + static_cast<std::uint64_t>(GetParam()));
  for (const Kind kind : {Kind::lognormal, Kind::wide, Kind::subnormal, Kind::cancelling}) {
    const Case whole = whole_batch(GetParam(), kind, 17, 11, random);
    const oracle::Result expected = run_oracle(whole);
    for (const std::string& isa : available_isas()) {
      const ForcedIsa forced(isa);
      for (std::int64_t ranks = 1; ranks <= 8; ++ranks) {
        for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
          const Environment& environment = kEnvironments[random.below(std::size(kEnvironments))];
          Case c = split(whole, ranks, random);
          c.layout = layout;
          c.threads = 1 + static_cast<int>(random.below(4));
          run_in(environment, c);
          const ForcedPaths paths(random);
          EXPECT_TRUE(same_bits(expected, joined(run_library(c))))
              << name_of(kind) << ", " << isa << ", " << environment.name << ", " << paths.text()
              << describe(c);
        }
      }
    }
  }
}

// Each way in turn, with data that miss their windows and with some that
// are no numbers; of the group's batch and, in an evaluation without running statistics, of its own.
TEST_P(Invariance, Paths) {
  Random random(90 + static_cast<std::uint64_t>(GetParam()));
  constexpr Kind kinds[] = {Kind::lognormal, Kind::wide, Kind::sprinkled};
  int k = 0;
  for (const std::int64_t channels : {1, 3, 32, 70}) {
    for (const bool training : {true, true, false}) {
      const Kind kind = kinds[(k++ + channels) % 3];
      Case whole = whole_batch(GetParam(), kind, 5, 9, random);
      whole.channels = channels;
      whole.training = training;
      fill(whole, kind, Kind::normal, random.chance(2), random);
      fill_state(whole, true, training, random);
      const oracle::Result expected = run_oracle(whole);
      for (const std::string& isa : available_isas()) {
        const ForcedIsa forced(isa);
        for (int way = 0; way < 8; ++way) {
          whole.layout = way % 2 == 0 ? Layout::channels_first : Layout::channels_last;
          whole.threads = 1 + static_cast<int>(random.below(3));
          kernels::forced_paths() = {(way & 2) != 0, (way & 4) != 0};
          EXPECT_TRUE(same_bits(expected, run_library(whole)))
              << name_of(kind) << ", " << isa << ", way " << way << ", " << describe(whole);
          kernels::forced_paths() = {};
        }
      }
    }
  }
}

// Large enough for several blocks of channels and, in float32 and float64, for more blocks than tasks.
//
// control: where a task leaves its last block out, this alone fails.
TEST_P(Invariance, BlocksOfChannels) {
  Random random(70 + static_cast<std::uint64_t>(GetParam()));
  Case c = whole_batch(GetParam(), Kind::normal, 2, 512, random);
  c.channels = 160;
  c.threads = 1;
  fill(c, Kind::normal, Kind::normal, false, random);
  fill_state(c, true, true, random);
  kernels::forced_paths().blocked = false;
  const oracle::Result expected = run_library(c);
  kernels::forced_paths().blocked = true;
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    c.layout = layout;
    EXPECT_TRUE(same_bits(expected, run_library(c))) << describe(c);
  }
  kernels::forced_paths() = {};
}

// Large enough that threads share a channel, and blocks are full.
TEST_P(Invariance, ThreadsShareAChannel) {
  Random random(50 + static_cast<std::uint64_t>(GetParam()));
  const Case whole = whole_batch(GetParam(), Kind::lognormal, 20, 1900, random);
  Case alone = whole;
  alone.threads = 1;
  oracle::Result expected;
  {
    const ForcedIsa forced("scalar");
    expected = run_library(alone);
  }
  for (const std::string& isa : available_isas()) {
    const ForcedIsa forced(isa);
    for (int threads = 1; threads <= 4; ++threads) {
      for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
        Case c = split(whole, 1 + random.below(2), random);
        c.layout = layout;
        c.threads = threads;
        run_in(kEnvironments[random.below(std::size(kEnvironments))], c);
        const ForcedPaths paths(random);
        EXPECT_TRUE(same_bits(expected, joined(run_library(c))))
            << isa << ", " << paths.text() << describe(c);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Invariance, ::testing::ValuesIn(oracle::kTypes),
                         [](const auto& param_info) { return oracle::name_of(param_info.param); });

// The host program's pool, in whatever order it runs the tasks.
TEST(Invariance, HostPoolBackwards) {
  Random random(77);
  const Case whole = whole_batch(oracle::Type::float32, Kind::lognormal, 6, 3000, random);
  const oracle::Result expected = run_library(whole);
  int calls = 0;
  set_parallel_for([&](int count, const std::function<void(int)>& task) {
    ++calls;
    for (int i = count - 1; i >= 0; --i) task(i);
  });
  Case c = whole;
  c.threads = 4;
  const oracle::Result actual = run_library(c);
  set_parallel_for({});
  EXPECT_GT(calls, 0);
  EXPECT_TRUE(same_bits(expected, actual));
}

// ---- controls: the data can tell ----

TEST(InvarianceControl, DoubleSumsDependOnTheSplit) {
  Random random(5 + static_cast<std::uint64_t>(oracle::Type::float32));
  for (const Kind kind : {Kind::lognormal, Kind::wide, Kind::cancelling}) {
    const std::vector<double> x = draw(kind, oracle::Type::float32, 17 * 11, random);
    const auto sum = [&](std::size_t first, std::size_t last, int power) {
      double total = 0;
      for (std::size_t i = first; i < last; ++i) total += power == 1 ? x[i] : x[i] * x[i];
      return total;
    };
    bool differs = false;
    for (const int power : {1, 2}) {
      const double whole = sum(0, x.size(), power);
      for (std::size_t cut = 1; cut < x.size(); ++cut) {
        differs = differs || sum(0, cut, power) + sum(cut, x.size(), power) != whole;
      }
    }
    EXPECT_TRUE(differs) << name_of(kind);
  }
}

#if defined(__x86_64__)
// The unguarded scalar kernel on the same kinds of data in these environments.
[[gnu::noinline]] std::vector<float> normalize_unguarded(const std::vector<float>& x) {
  const float mean = 0x1p-130F, k = 0.37F, shift = 0x1.8p-135F;
  std::vector<float> y(x.size());
  kernels::reference::normalize<float>(
      {x.data(), nullptr, y.data(), {1, x.size(), x.size(), false, 0}, false}, {&mean, &k, &shift});
  return y;
}

TEST(InvarianceControl, EnvironmentsChangeAnUnguardedKernel) {
  Random random(3);
  for (const Environment& environment : kEnvironments) {
    const Kind kind = (environment.mode & kFlushToZero) != 0 ? Kind::subnormal : Kind::normal;
    std::vector<float> x;
    for (const double value : draw(kind, oracle::Type::float32, 100, random))
      x.push_back(static_cast<float>(value));
    const std::vector<float> expected = normalize_unguarded(x);
    _mm_setcsr(environment.mode);
    const std::vector<float> actual = normalize_unguarded(x);
    _mm_setcsr(kDefaultEnvironment);
    EXPECT_EQ(expected == actual, environment.mode == kDefaultEnvironment) << environment.name;
  }
}

// Subnormals go in and come out of the layer itself, so flushing them could be seen.
TEST(InvarianceControl, SubnormalsComeOut) {
  Random random(4);
  Case c = whole_batch(oracle::Type::float32, Kind::subnormal, 17, 11, random);
  c.settings.eps = 1.0;
  c.settings.relu = false;
  c.shares.front().residual.clear();
  c.state.bias.assign(3, 0.0);
  const oracle::Result result = run_library(c);
  std::size_t subnormal = 0;
  for (const double y : result.ranks.front().y) subnormal += y != 0 && std::fabs(y) < 0x1p-126 ? 1 : 0;
  EXPECT_GT(subnormal, 100u);
}
#endif

}  // namespace
}  // namespace syncbn::testing
