// SPDX-License-Identifier: Apache-2.0
// Deaths, stops, departures and hostile writers in a shared window: each has its error, in its time.
#include <fcntl.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engines/shared_window.h"
#include "rank_processes.h"
#include "syncbn/error.h"
#include "syncbn/group.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::RankProcesses;
using testing::sum_once;
using testing::WindowMemory;

constexpr milliseconds kPatience{60'000};  // longer than any test: an error must not come from it
constexpr std::size_t kSmallSlot = 2500;
constexpr std::size_t kMessage = 6000;  // three pieces, each of up to three parts

std::string sum_for_ever(Communicator& window, milliseconds patience = kPatience) {
  for (int round = 1;; ++round) {
    const std::string wrong = sum_once(window, round, kMessage, patience);
    if (!wrong.empty()) return wrong;
  }
}

class FaultOfRanks : public ::testing::TestWithParam<int> {};

// At any moment of a piece. The killed rank has forked a process that lives on. control: without watch() the
// survivors get a TimeoutError.
TEST_P(FaultOfRanks, KilledAtRandomMoments) {
  constexpr int kTrials = 15;
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  for (int trial = 0; trial < kTrials; ++trial) {
    const WindowMemory memory({GetParam(), kSmallSlot});
    int ends[2];  // the forked process ends when no process has the second end open
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    int ready[2];
    ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
    RankProcesses ranks(GetParam(), [&](int rank) {
      const auto window = memory.attach(rank);
      if (rank == 0 && fork() == 0) {
        close(ends[1]);
        char byte;
        while (read(ends[0], &byte, 1) > 0) {
        }
        _exit(0);
      }
      close(ends[1]);
      if (rank == 0 && write(ready[1], "x", 1) != 1) return std::string("write");
      return sum_for_ever(*window, milliseconds(20'000));
    });
    char byte;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    std::this_thread::sleep_for(microseconds(random() % 4000));
    const auto killed = Clock::now();
    ranks.signal(0, SIGKILL);
    for (int rank = 1; rank < GetParam(); ++rank)
      EXPECT_EQ(ranks.outcome(rank), "PeerError: connection closed by rank 0") << "trial " << trial;
    // Two looks and time for a busy machine. The measured time is 0.1 s.
    EXPECT_LT(Clock::now() - killed, milliseconds(5000)) << "trial " << trial;
    EXPECT_EQ(ranks.outcome(0), "signal 9");
    for (const int fd : {ends[0], ends[1], ready[0], ready[1]}) close(fd);
    if (HasFailure()) return;
  }
}

// It was stopped within a sum or between two. In the first case the others may finish that sum.
TEST_P(FaultOfRanks, StoppedIsATimeoutThatNamesIt) {
  constexpr milliseconds kDeadline{1500};  // also for one sum on a busy machine
  const WindowMemory memory({GetParam(), kSmallSlot});
  RankProcesses ranks(GetParam(), [&](int rank) {
    const auto window = memory.attach(rank);
    if (rank == 0) {
      for (int round = 1; round < 20; ++round) sum_once(*window, round, kMessage, kPatience);
      raise(SIGSTOP);
    }
    return sum_for_ever(*window, rank == 0 ? kPatience : kDeadline);
  });
  for (int rank = 1; rank < GetParam(); ++rank)
    EXPECT_EQ(ranks.outcome(rank), "TimeoutError: waiting for rank 0");
  ranks.signal(0, SIGCONT);  // and it hears what the others did
  EXPECT_EQ(ranks.outcome(0).substr(0, 35), "PeerError: a sum was given up by ra");
}

TEST_P(FaultOfRanks, LeftWithoutTheCall) {
  const WindowMemory memory({GetParam(), kSmallSlot});
  RankProcesses ranks(GetParam(), [&](int rank) {
    const auto window = memory.attach(rank);
    for (int round = 1; round < 20; ++round) {
      const std::string wrong = sum_once(*window, round, kMessage, kPatience);
      if (!wrong.empty()) return wrong;
    }
    return rank == GetParam() - 1 ? "left" : sum_for_ever(*window);
  });
  const int last = GetParam() - 1;
  for (int rank = 0; rank < last; ++rank)
    EXPECT_EQ(ranks.outcome(rank),
              fmt::format("PeerError: the group was left without this call by rank {}", last));
  EXPECT_EQ(ranks.outcome(last), "left");
}

// Another thread of the rank aborts; its own wait and those of its peers end.
TEST_P(FaultOfRanks, Abort) {
  const WindowMemory memory({GetParam(), kSmallSlot});
  RankProcesses ranks(GetParam(), [&](int rank) {
    const auto window = memory.attach(rank);
    std::thread other([&] {
      if (rank != 0) return;
      std::this_thread::sleep_for(milliseconds(5));
      window->abort();
    });
    const std::string outcome = testing::outcome_of([&] { return sum_for_ever(*window); });
    other.join();
    return outcome;
  });
  EXPECT_EQ(ranks.outcome(0), "PeerError: this rank gave the sum up");
  for (int rank = 1; rank < GetParam(); ++rank) {
    const std::string outcome = ranks.outcome(rank);
    EXPECT_TRUE(outcome == "PeerError: a sum was given up by rank 0" ||
                outcome == "PeerError: the group was left without this call by rank 0")
        << outcome;
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, FaultOfRanks, ::testing::Values(2, 4), ::testing::PrintToStringParamName());

// Rank 0 gives up first and ends. Rank 1 still names the rank that never came, not rank 0.
TEST(SharedWindowFault, WhoGaveUpFirstIsNotBlamed) {
  const WindowMemory memory({3, kSmallSlot});
  RankProcesses ranks(3, [&](int rank) -> std::string {
    auto window = memory.attach(rank);
    if (rank == 2) {
      for (;;) pause();
    }
    return sum_once(*window, 1, 10, milliseconds(rank == 0 ? 200 : 600));
  });
  EXPECT_EQ(ranks.outcome(0), "TimeoutError: waiting for rank 2");
  EXPECT_EQ(ranks.outcome(1), "TimeoutError: waiting for rank 2");
}

// All words of the sum are there, so the late rank gets it. Its next call names the ranks that gave up.
TEST(SharedWindowFault, ALateRankGetsTheSumThatOthersGaveUp) {
  const WindowMemory memory({3, kSmallSlot});
  RankProcesses ranks(3, [&](int rank) -> std::string {
    auto window = memory.attach(rank);
    if (rank < 2) return sum_once(*window, 1, kMessage / 3, milliseconds(200));
    std::this_thread::sleep_for(milliseconds(500));
    const std::string wrong = sum_once(*window, 1, kMessage / 3, kPatience);
    return wrong.empty() ? sum_once(*window, 2, 10, kPatience) : wrong;
  });
  EXPECT_EQ(ranks.outcome(0), "TimeoutError: waiting for rank 2");
  EXPECT_EQ(ranks.outcome(1), "TimeoutError: waiting for rank 2");
  EXPECT_EQ(ranks.outcome(2), "PeerError: a sum was given up by ranks 0-1");
}

TEST(SharedWindowFault, AnInterruptEndsTheWait) {
  const WindowMemory memory({2, kSmallSlot});
  RankProcesses ranks(2, [&](int rank) {
    const auto window = memory.attach(rank);
    if (rank == 1) std::this_thread::sleep_for(milliseconds(300));
    if (rank == 0) set_interrupt_check([] { return true; });
    return sum_for_ever(*window);
  });
  EXPECT_EQ(ranks.outcome(0), "Interrupted");
  EXPECT_EQ(ranks.outcome(1), "PeerError: a sum was given up by rank 0");
}

TEST(SharedWindowFault, UnequalLengthsAreAnError) {
  const WindowMemory memory({3, kSmallSlot});
  RankProcesses ranks(3, [&](int rank) {
    const auto window = memory.attach(rank);
    return sum_once(*window, 1, rank == 1 ? 11 : 10, kPatience);
  });
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_TRUE(ranks.outcome(rank).starts_with("PeerError: internal error: rank ")) << "rank " << rank;
}

// The fork neither touches the parent's memory nor tells the peers anything.
TEST(SharedWindowFault, AForkLeavesTheWindowAlone) {
  const WindowMemory memory({2, kSmallSlot});
  RankProcesses ranks(2, [&](int rank) -> std::string {
    auto window = memory.attach(rank);
    const pid_t child = fork();
    if (child == 0) {
      const std::string refused = testing::outcome_of([&] { return sum_once(*window, 1, 10, kPatience); });
      window.reset();
      _exit(refused.starts_with("exception: a fork can't use") ? 5 : 6);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 5) return fmt::format("the fork ended with {}", status);
    return sum_once(*window, 1, 10, kPatience);
  });
  for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(ranks.outcome(rank), "");
}

// A process that can write to the memory, as none but the ranks can, may spoil sums and delay waits. It can't
// make a rank read or write outside its memory, nor keep it beyond its deadline.
class HostileWriter : public ::testing::TestWithParam<int> {};

TEST_P(HostileWriter, GarbageInEveryWord) {
  const int size = GetParam();
  const WindowMemory memory({size, kSmallSlot});
  std::atomic<bool> done = false;
  std::uint64_t changes = 0;
  std::thread writer;
  {
    RankProcesses ranks(size, [&](int rank) -> std::string {
      auto window = memory.attach(rank);
      std::string outcomes;
      const Deadline end = Clock::now() + milliseconds(400);
      for (int attempt = 0; Clock::now() < end; ++attempt) {
        const std::string outcome =
            testing::outcome_of([&] { return sum_once(*window, attempt, kMessage, milliseconds(20)); });
        for (const char* expected : {"wrong sum", "PeerError", "TimeoutError"}) {
          if (outcome.starts_with(expected)) outcomes = "spoiled";
        }
        if (!outcome.empty() && outcomes.empty()) return outcome;
      }
      return outcomes;
    });
    writer = std::thread([&] {
      // Not from the start: the ranks must have attached.
      std::this_thread::sleep_for(milliseconds(50));
      std::mt19937_64 random(5);
      const std::size_t words = memory.memory()->bytes() / 8;
      const std::size_t head = (sizeof(WindowHead) + sizeof(RankLine) * static_cast<std::size_t>(size)) / 8;
      while (!done) {
        const std::size_t i =
            random() % (random() % 4 == 0 ? words : head);  // mostly where the control words are
        const std::uint64_t word = random() >> (random() % 64);
        std::memcpy(memory.memory()->data() + i * 8, &word, 8);
        ++changes;
      }
    });
    for (int rank = 0; rank < size; ++rank) {
      const std::string outcome = ranks.outcome(rank);
      EXPECT_TRUE(outcome == "spoiled" || outcome.starts_with("PeerError")) << outcome;
    }
  }
  done = true;
  writer.join();
  EXPECT_GT(changes, 1000u);
}
INSTANTIATE_TEST_SUITE_P(Ranks, HostileWriter, ::testing::Values(2, 3, 5),
                         ::testing::PrintToStringParamName());

// Every control word in turn holds each extreme value, before a sum and for its whole time.
TEST(SharedWindowFault, ExtremeValuesInEveryControlWord) {
  const std::uint64_t extremes[] = {~std::uint64_t{0}, std::uint64_t{1} << 63, 0x00000001'ffffffffu,
                                    0xffffffffu, 0x7fffffff'7fffffffu};
  for (const int size : {2, 3}) {
    const WindowShape shape{size, kSmallSlot};
    const std::size_t words = (sizeof(WindowHead) + sizeof(RankLine) * static_cast<std::size_t>(size)) / 8;
    RankProcesses ranks(1, [&](int) -> std::string {
      for (std::size_t i = 0; i < words; ++i) {
        for (const std::uint64_t extreme : extremes) {
          const WindowMemory memory(shape);
          std::memcpy(memory.memory()->data() + i * 8, &extreme, 8);
          SharedWindow window(memory.memory(), shape, 0);
          const std::string outcome =
              testing::outcome_of([&] { return sum_once(window, 1, kMessage, milliseconds(1)); });
          if (!outcome.starts_with("TimeoutError") && !outcome.starts_with("PeerError")) return outcome;
        }
      }
      return "";
    });
    EXPECT_EQ(ranks.outcome(0), "") << size << " ranks";
  }
}

}  // namespace
}  // namespace syncbn::engines
