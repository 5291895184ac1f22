// SPDX-License-Identifier: Apache-2.0

// The layer on the guarded device: tensors, parameters, running statistics, their counter and saved columns
// are PROT_NONE outside of kernels, so the layer's own code touches none of them.
//
// control: ControlTouchOutsideOfKernels; and a read of tensors.x.data, of a running statistic or of the
// counter in src/layer/forward.cpp ends this program.

#include <gtest/gtest.h>

#include "kernels/plan.h"
#include "layer/data.h"
#include "layer/guarded_device.h"
#include "layer/harness.h"

namespace syncbn::testing {
namespace {

Case draw_case(oracle::Type type, int ranks, bool training, Random& random) {
  Case c;
  c.settings.input = type;
  c.settings.parameters = oracle::kTypes[random.below(4)];
  c.settings.eps = 1e-5;
  c.settings.momentum = random.chance(2) ? std::optional(0.1) : std::nullopt;
  c.settings.relu = random.chance(2);
  c.settings.group_gradients = random.chance(2);
  c.channels = 1 + random.below(40);
  c.layout = random.chance(2) ? Layout::channels_last : Layout::channels_first;
  c.training = training;
  c.threads = static_cast<int>(1 + random.below(3));
  const std::int64_t places = 1 + random.below(30);
  for (int rank = 0; rank < ranks; ++rank) {
    oracle::Share share;
    share.samples = rank == 1 ? 0 : 2 + random.below(4);
    share.places = places;
    c.shares.push_back(share);
  }
  const Kind kind = kKinds[random.below(std::size(kKinds))];
  fill_state(c, !random.chance(4), !random.chance(4), random);
  fill(c, kind, Kind::normal, random.chance(2), random);
  return c;
}

class Guarded : public ::testing::TestWithParam<oracle::Type> {};

TEST_P(Guarded, TheLayerTouchesNoElementsAndNoValues) {
  Random random(1);
  const long calls = GuardedDevice::calls();
  for (int i = 0; i < 60; ++i) {
    const bool training = i % 3 != 0;
    const Case c = draw_case(GetParam(), training ? 1 + i % 4 : 1, training, random);
    SCOPED_TRACE(describe(c));
    kernels::forced_paths().blocked = random.chance(2);
    const oracle::Result expected = run_library(c);
    const GuardedDevice device;
    EXPECT_TRUE(same_bits(expected, run_library(c)));
    kernels::forced_paths() = {};
  }
  EXPECT_GT(GuardedDevice::calls(), calls + 60 * 4);  // the device was in use
}

INSTANTIATE_TEST_SUITE_P(Types, Guarded, ::testing::ValuesIn(oracle::kTypes),
                         [](const auto& type) { return std::string(oracle::name_of(type.param)); });

TEST(GuardedDeathTest, ControlTouchOutsideOfKernels) {
  volatile auto* memory = static_cast<char*>(GuardedDevice::allocate(1, std::byte{}));
  EXPECT_EQ(0, *memory);
  EXPECT_DEATH(
      {
        GuardedDevice::close();
        std::fprintf(stderr, "%d", *memory);
      },
      "");
}

}  // namespace
}  // namespace syncbn::testing
