// SPDX-License-Identifier: Apache-2.0

// Survivors of a lost rank go on in the same processes, with the bits that they had.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <memory>

#include "../engines/processes_child.h"
#include "../outcome.h"

namespace syncbn::reliability {
namespace {

using syncbn::testing::tells;

using processes::Child;

struct Loss {
  int culprit;  // rank 0 serves the store, which goes with it
  std::string fault;
};

std::ostream& operator<<(std::ostream& out, const Loss& loss) {
  return out << loss.fault << " of rank " << loss.culprit;
}

class Recovery : public ::testing::TestWithParam<Loss> {};
INSTANTIATE_TEST_SUITE_P(
    From, Recovery, ::testing::Values(Loss{2, "kill"}, Loss{0, "kill"}, Loss{1, "stop"}, Loss{0, "stop"}),
    [](const auto& loss) { return fmt::format("{}_of_rank_{}", loss.param.fault, loss.param.culprit); });

// control: a forward that commits before the group's sum fails with "has changed the state".
TEST_P(Recovery, SurvivorsGoOnWithTheSameBits) {
  const auto [culprit, fault] = GetParam();
  const std::vector<int> ports = processes::free_ports(2);
  std::vector<std::unique_ptr<Child>> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.push_back(std::make_unique<Child>(
        std::vector<std::string>{SYNCBN_RECOVERY_WORKER, std::to_string(rank), std::to_string(culprit), fault,
                                 std::to_string(ports[0]), std::to_string(ports[1])},
        processes::Variables{}));
  }
  for (int rank = 0; rank < 3; ++rank) {
    if (rank == culprit) continue;
    Child& survivor = *ranks[static_cast<std::size_t>(rank)];
    EXPECT_EQ(survivor.wait(), "exit 0") << survivor.output();
    // Of a stopped rank one survivor may hear from the other, whose deadline was the first.
    const std::string output = survivor.output();
    EXPECT_TRUE(tells(output, "'world' ... call 7 ... forward ... 'bn'")) << output;
    EXPECT_TRUE(tells(output, fmt::format("rank {}", culprit)) ||
                tells(output, "deadline") ||  // the store is stopped, too
                tells(output, "given up by rank"))
        << output;
    EXPECT_TRUE(survivor.shows("right after the loss")) << survivor.output();
  }
}

}  // namespace
}  // namespace syncbn::reliability
