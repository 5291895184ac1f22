// SPDX-License-Identifier: Apache-2.0

// A dry run of one rank: the same bits as among real ranks that bring the same
#include "engines/simulated.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>

#include "../environment/environment.h"
#include "../ranks.h"
#include "syncbn/syncbn.h"
#include "world/current_world.h"

namespace syncbn {
namespace {

using testing::Environment;
using testing::expect_error;
using testing::outcome;
using testing::Variables;

InitOptions simulation(int rank, int size) {
  InitOptions options;
  options.rank = rank;
  options.size = size;
  options.backend = Backend::simulation;
  return options;
}

class Simulation : public ::testing::Test {
 protected:
  ~Simulation() override { world::set_process_world(nullptr); }
  Environment environment_{Variables{}};
};

using Bits = std::vector<std::uint32_t>;

// Three training steps on batches that depend on `seed` alone: everything that the layer gives and keeps.
Bits train(const std::string& group, std::uint32_t seed = 7) {
  const Shape shape({5, 3, 7});
  SyncBatchNormOptions options;
  options.process_group = group;
  options.affine_gradients = AffineGradients::group;
  SyncBatchNorm layer(3, options);
  Bits bits;
  const auto keep = [&](std::span<const float> values) {
    for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  };
  const auto batch = [&] {
    std::vector<float> values;
    for (int i = 0; i < 5 * 3 * 7; ++i) {
      seed = seed * 1664525u + 1013904223u;
      values.push_back(static_cast<float>(seed >> 8) * 0x1p-20f - 3);
    }
    return values;
  };
  for (int step = 0; step < 3; ++step) {
    const std::vector<float> x = batch();
    const std::vector<float> dy = batch();
    std::vector<float> y(x.size());
    std::vector<float> dx(x.size());
    layer.forward(view(x, shape), view(y, shape));
    layer.backward(view(dy, shape), view(x, shape), view(dx, shape));
    keep(y);
    keep(dx);
    for (const char* name : {"weight_grad", "bias_grad", "running_mean", "running_var"})
      keep(layer.values<float>(name));
  }
  return bits;
}

Bits train_among(int size, int rank, const std::vector<int>& group = {}, int odd_one = -1) {
  Bits result;
  run_ranks(size, [&](int r) {
    if (!group.empty() && std::ranges::find(group, r) == group.end()) return;
    if (!group.empty()) create_group("g", group);
    const Bits bits = train(group.empty() ? "world" : "g", r == odd_one ? 8 : 7);
    if (r == rank) result = bits;
  });
  return result;
}

TEST_F(Simulation, ATrainingStepHasTheBitsOfRealRanks) {
  init(simulation(3, 8));
  const Bits world = train("world");
  create_group("g", {5, 3, 1});
  const Bits group = train("g");
  release();
  EXPECT_EQ(world, train_among(8, 3));
  EXPECT_EQ(group, train_among(8, 3, {5, 3, 1}));
  // Control: the bits tell the world's size and the peers' batches.
  EXPECT_NE(world, train_among(7, 3));
  EXPECT_NE(world, group);
  EXPECT_NE(world, train_among(8, 3, {}, 5));
}

TEST_F(Simulation, TheWorldThatItShows) {
  init(simulation(3, 8));
  EXPECT_EQ(get_rank(), 3);
  EXPECT_EQ(get_group_size(), 8);
  EXPECT_EQ(get_local_rank(), 3);
  EXPECT_EQ(get_local_rank_size(), 8);
  create_group("g", {5, 3, 1});
  EXPECT_EQ(get_rank("g"), 1);
  EXPECT_EQ(get_group_rank_from_world_rank(5, "g"), 0);
  expect_error<GroupError>(
      [] {
        create_group("others", {0, 1});
      },
      {"create_group", "'others'", "[0, 1] ... 3"});
  create_group("alone", {3});
  std::vector<float> values{1.5f, -2};
  all_reduce_sum(values, "alone");
  EXPECT_EQ(values, (std::vector<float>{1.5f, -2}));
  all_reduce_sum(values, "g");
  EXPECT_EQ(values, (std::vector<float>{4.5f, -6}));
  all_reduce_sum(values);
  EXPECT_EQ(values, (std::vector<float>{36, -48}));
}

TEST_F(Simulation, TheLargestWorld) {
  init(simulation(65535, 65536));
  std::vector<double> values{0.1, -std::numeric_limits<double>::denorm_min()};
  all_reduce_sum(values);
  EXPECT_EQ(values, (std::vector<double>{0.1 * 65536, -0x1p-1058}));
}

// Sums wrap, as they do among threads.
TEST_F(Simulation, WordsWrap) {
  const std::vector<std::int64_t> words = {1, -1, std::numeric_limits<std::int64_t>::max(),
                                           std::numeric_limits<std::int64_t>::min(), 0x123456789abcdef};
  const auto sum = [&](Communicator& communicator) {
    const auto buffer = communicator.buffer(words.size());
    std::ranges::copy(words, buffer.begin());
    communicator.start(words.size());
    communicator.wait(testing::soon());
    return std::vector<std::int64_t>(buffer.begin(), buffer.begin() + std::ssize(words));
  };
  const group::GroupSpec spec{"g", {0, 1, 2}, 0};
  const auto simulated = engines::simulated_engine(1, 3)->connect(spec, testing::soon());
  EXPECT_EQ(simulated->rank(), 1);
  EXPECT_EQ(simulated->size(), 3);
  const auto threads = std::make_shared<engines::ThreadWorld>(3);
  run_ranks(3, [&](int rank) {
    const auto real = threads->connect(spec, rank, testing::soon());
    const auto sums = sum(*real);
    if (rank == 1) {
      EXPECT_EQ(sum(*simulated), sums);
    }
  });
}

TEST_F(Simulation, AFailedCallBreaksTheGroupAsAmongRealRanks) {
  const auto fail = [] {
    SyncBatchNorm layer(2);
    const std::vector<float> x(6);
    std::vector<float> y(6);
    std::string text = outcome([&] { layer.forward(view(x, Shape({2, 3})), view(y, Shape({2, 3}))); });
    return text + "\n" + outcome([&] { layer.forward(view(x, Shape({3, 2})), view(y, Shape({3, 2}))); });
  };
  init(simulation(0, 2));
  const std::string simulated = fail();
  std::string real;
  run_ranks(2, [&](int rank) {
    const std::string text = fail();
    if (rank == 0) real = text;
  });
  EXPECT_EQ(simulated, real);
  expect_error<InvalidArgument>(simulated, {"x ... GroupError ... 'world'"});
}

const Variables kTorchrun = {
    {"RANK", "1"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "no.such.host"}, {"MASTER_PORT", "9"}};

TEST_F(Simulation, ByTheEnvironmentsRankAndSize) {
  const Environment environment(kTorchrun);
  init(Backend::simulation);
  EXPECT_EQ(get_rank(), 1);
  EXPECT_EQ(get_group_size(), 4);
  std::vector<float> values{1};
  all_reduce_sum(values);
  EXPECT_EQ(values[0], 4);
}

TEST_F(Simulation, ByTheEnvironmentAlone) {
  Variables variables = kTorchrun;
  variables["SYNCBN_BACKEND"] = "simulation";
  const Environment environment(variables);
  init();
  std::vector<float> values{1};
  all_reduce_sum(values);
  EXPECT_EQ(values[0], 4);
}

TEST_F(Simulation, NeedsARank) {
  const Environment environment({{"MS_WORKER_NUM", "4"}, {"MS_SCHED_HOST", "h"}, {"MS_SCHED_PORT", "1"}});
  expect_error<GroupError>([] { init(Backend::simulation); }, {"RANK_ID"});
  EXPECT_FALSE(is_initialized());
}

}  // namespace
}  // namespace syncbn
