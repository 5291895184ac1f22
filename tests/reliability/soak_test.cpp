// SPDX-License-Identifier: Apache-2.0

// Two processes over Gloo train for long: neither memory nor descriptors grow, and every result is right.
// SYNCBN_SOAK_STEPS sets how long.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>

#include "../engines/processes_child.h"

namespace syncbn::reliability {
namespace {

using processes::Child;

TEST(Soak, NothingGrows) {
  const char* wanted = std::getenv("SYNCBN_SOAK_STEPS");
  const std::string steps = wanted == nullptr ? "1000" : wanted;
  const int port = processes::free_ports(1)[0];
  std::vector<std::unique_ptr<Child>> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    ranks.push_back(std::make_unique<Child>(
        std::vector<std::string>{SYNCBN_SOAK_WORKER, std::to_string(rank), std::to_string(port), steps},
        processes::Variables{}));
  }
  for (const auto& rank : ranks) {
    while (!rank->has_ended())
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // ctest has a deadline
    const std::string output = rank->output();
    EXPECT_EQ(rank->wait(), "exit 0") << output;
    long memory[2], descriptors[2];
    const auto end = output.find("end:");
    ASSERT_NE(end, std::string::npos) << output;
    ASSERT_EQ(std::sscanf(output.c_str(), "begin: %ld KiB, %ld", &memory[0], &descriptors[0]), 2) << output;
    ASSERT_EQ(std::sscanf(output.c_str() + end, "end: %ld KiB, %ld", &memory[1], &descriptors[1]), 2)
        << output;
    EXPECT_LE(descriptors[1], descriptors[0]);
    // An allocator's pages come and go. 1,000 steps that each lost 300 bytes would
    // show.
#ifndef __SANITIZE_ADDRESS__  // which keeps what was freed
    EXPECT_LE(memory[1], memory[0] + 256);
#endif
    fmt::print("{} steps\n{}", steps, output);
  }
}

}  // namespace
}  // namespace syncbn::reliability
