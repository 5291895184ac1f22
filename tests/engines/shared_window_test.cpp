// SPDX-License-Identifier: Apache-2.0
// Sums in the memory that the ranks of one host share: right for every size, in every timing.
#include "engines/shared_window.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "rank_processes.h"

namespace syncbn::engines {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::RankProcesses;
using testing::sum_once;
using testing::WindowMemory;

constexpr milliseconds kPatience{30'000};
// Two parts and a bit: small, so that messages of several pieces and several parts are short.
constexpr std::size_t kSmallSlot = 2500;

// Around the borders of a line, of a part (1,024 words) and of a piece.
const std::vector<std::size_t> kLengths = {0,    1,    7,    8,    64,     1023, 1024, 1025, 2048, 2499,
                                           2500, 2501, 5000, 7512, 20'000, 3,    1,    0,    2500};

class WindowOfSize : public ::testing::TestWithParam<int> {};

TEST_P(WindowOfSize, SumsOfEveryLength) {
  const WindowMemory memory({GetParam(), kSmallSlot});
  RankProcesses ranks(GetParam(), [&](int rank) {
    const auto window = memory.attach(rank);
    std::string wrong;
    for (int round = 0; round < 100 && wrong.empty(); ++round)
      wrong =
          sum_once(*window, round, kLengths[static_cast<std::size_t>(round) % kLengths.size()], kPatience);
    return wrong;
  });
  for (int rank = 0; rank < GetParam(); ++rank) EXPECT_EQ(ranks.outcome(rank), "");
}

// Ranks come early and late by up to 3 ms, so that they yield, sleep, and find all there. Seeded by rank.
TEST_P(WindowOfSize, UnevenTiming) {
  const WindowMemory memory({GetParam(), kSmallSlot});
  RankProcesses ranks(GetParam(), [&](int rank) {
    const auto window = memory.attach(rank);
    std::mt19937 random(static_cast<unsigned>(rank));
    std::string wrong;
    for (int round = 0; round < 150 && wrong.empty(); ++round) {
      if (random() % 4 == 0) std::this_thread::sleep_for(microseconds(random() % 3000));
      wrong = sum_once(*window, round, 1 + static_cast<std::size_t>(round) * 37 % 4000, kPatience);
    }
    return wrong;
  });
  for (int rank = 0; rank < GetParam(); ++rank) EXPECT_EQ(ranks.outcome(rank), "");
}
INSTANTIATE_TEST_SUITE_P(Ranks, WindowOfSize, ::testing::Values(1, 2, 3, 4, 5, 8),
                         ::testing::PrintToStringParamName());

// control: a window whose slots lie on each other (shape with other slot_words on one rank) has wrong sums.
TEST(SharedWindowControl, WrongSumsAreFound) {
  const WindowMemory memory({2, kSmallSlot});
  RankProcesses ranks(2, [&](int rank) {
    const auto window = memory.attach(rank);
    return sum_once(*window, rank, 10, kPatience);  // each expects another round's sum
  });
  for (int rank = 0; rank < 2; ++rank)
    EXPECT_EQ(ranks.outcome(rank).substr(0, 9), "wrong sum") << "rank " << rank;
}

// Ranks as threads on one mapping: the thread sanitizer then sees both sides of every access.
TEST(SharedWindow, ThreadsOnOneMapping) {
  for (const int size : {2, 3, 4}) {
    const WindowMemory memory({size, kSmallSlot});
    std::vector<std::string> outcomes(static_cast<std::size_t>(size), "did not end");
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        outcomes[static_cast<std::size_t>(rank)] = testing::outcome_of([&] {
          SharedWindow window(memory.memory(), memory.shape(), rank);
          std::string wrong;
          for (int round = 0; round < 300 && wrong.empty(); ++round)
            wrong = sum_once(window, round, 1 + static_cast<std::size_t>(round) * 61 % 6000, kPatience);
          return wrong;
        });
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& outcome : outcomes) EXPECT_EQ(outcome, "") << size << " ranks";
  }
}

// Both groups' ranks wait for each other on the same cores.
TEST(SharedWindow, TwoWindowsAtOnce) {
  const WindowMemory first({3, kSmallSlot}), second({3, kSmallSlot});
  RankProcesses ranks(3, [&](int rank) {
    std::string outcome;
    std::thread other([&] {
      outcome = testing::outcome_of([&] {
        const auto window = second.attach(rank);
        std::string wrong;
        for (int round = 0; round < 100 && wrong.empty(); ++round)
          wrong = sum_once(*window, round, 3000, kPatience);
        return wrong;
      });
    });
    const auto window = first.attach(rank);
    std::string wrong;
    for (int round = 0; round < 100 && wrong.empty(); ++round)
      wrong = sum_once(*window, round, 100, kPatience);
    other.join();
    return wrong + outcome;
  });
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(ranks.outcome(rank), "");
}

TEST(SharedWindow, BufferKeepsItsContents) {
  const WindowMemory memory({1, kSmallSlot});
  SharedWindow window(memory.memory(), memory.shape(), 0);
  window.buffer(10)[9] = 42;
  EXPECT_EQ(window.buffer(10)[9], 42);
  EXPECT_EQ(window.buffer(3)[2], 0);
  EXPECT_EQ(window.buffer(10)[9], 42);
}

}  // namespace
}  // namespace syncbn::engines
