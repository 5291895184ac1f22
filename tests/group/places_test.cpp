// SPDX-License-Identifier: Apache-2.0

// The limit of the layers that a group knows. The rule of places itself is checked by the protocol model.
#include "group/places.h"

#include <gtest/gtest.h>

namespace syncbn::group {
namespace {

TEST(Places, BeyondTheLimitAllLayersAreForgottenAndCountedAnew) {
  constexpr std::int64_t kMaxLayers = 1 << 16;
  Places places;
  for (std::int64_t n = 0; n < kMaxLayers; ++n)
    ASSERT_EQ(places.take({n % 2 == 0 ? "even" : "", n}, n).code(), (Place{true, n / 2}.code()));
  EXPECT_FALSE(places.take({"even", 0}, 0).is_first_sum);  // control: up to the limit every layer is known
  EXPECT_EQ(places.first_call("even"), 0);
  const Place beyond = places.take({"", kMaxLayers}, kMaxLayers);
  EXPECT_TRUE(beyond.is_first_sum);
  EXPECT_EQ(beyond.position, 0);
  EXPECT_EQ(places.first_call("even"), std::nullopt);
  const Place known_before = places.take({"even", 0}, kMaxLayers + 1);
  EXPECT_TRUE(known_before.is_first_sum);
  EXPECT_EQ(places.first_call("even"), kMaxLayers + 1);
  EXPECT_EQ(places.take({"", 1}, kMaxLayers + 2).position, 0);  // constructed before the only one known
}

}  // namespace
}  // namespace syncbn::group
