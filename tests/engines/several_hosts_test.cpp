// SPDX-License-Identifier: Apache-2.0
// Groups on several hosts: a window on each, and an engine between their leaders.
#include "several_hosts.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <random>
#include <thread>

#include "syncbn/group.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using testing::HostsBoard;
using testing::HostsEngine;
using testing::RankProcesses;
using testing::sum_once;
using testing::WindowMemory;

constexpr milliseconds kPatience{60'000};  // longer than any test: an error must not come from it
constexpr std::size_t kSmallSlot = 2500;
constexpr std::size_t kMessage = 6000;  // three pieces

// One rank of the group: its window, with the group's rank and size.
class HostRank final : public Communicator {
 public:
  HostRank(std::unique_ptr<SharedWindow> window, std::unique_ptr<MultiHostCommunicator> group)
      : group_(std::move(group)), window_(std::move(window)) {}
  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  std::span<std::int64_t> buffer(std::size_t words) override { return window_->buffer(words); }
  void start(std::size_t words) override { window_->start(words); }
  void wait(Deadline deadline) override { window_->wait(deadline); }
  void abort() noexcept override { window_->abort(); }

 private:
  const std::unique_ptr<MultiHostCommunicator> group_;
  const std::unique_ptr<SharedWindow> window_;
};

// Hosts of the given sizes; the group's ranks go from host to host.
class Hosts {
 public:
  explicit Hosts(const std::vector<int>& sizes, bool background = true) : background_(background) {
    for (const int size : sizes) {
      first_.push_back(this->size());
      windows_.emplace_back(WindowShape{size, kSmallSlot});
      for (int i = 0; i < size; ++i) host_of_.push_back(static_cast<int>(windows_.size()) - 1);
    }
    everyone_ = std::make_unique<WindowMemory>(WindowShape{size(), kSmallSlot});
    leaders_ = std::make_unique<WindowMemory>(WindowShape{static_cast<int>(sizes.size()), kSmallSlot});
  }

  int size() const { return static_cast<int>(host_of_.size()); }
  HostsBoard& board() const { return board_; }
  const WindowMemory& window(int host) const { return windows_[static_cast<std::size_t>(host)]; }

  // The rank's communicator in its process, or, with `threads`, in one process for all ranks.
  std::unique_ptr<Communicator> attach(int rank, bool threads = false) const {
    const auto host = static_cast<std::size_t>(host_of_[static_cast<std::size_t>(rank)]);
    const int own = rank - first_[host];
    std::vector<int> all, names;
    for (int r = 0; r < size(); ++r) {
      all.push_back(r);
      if (host_of_[static_cast<std::size_t>(r)] == static_cast<int>(host)) names.push_back(r);
    }
    auto window = open(windows_[host], own, threads);
    std::unique_ptr<MultiHostCommunicator> between;
    if (own == 0)
      between = std::make_unique<HostsEngine>(open(*leaders_, static_cast<int>(host), threads), first_,
                                              board_, background_);
    auto group = std::make_unique<HostsEngine>(open(*everyone_, rank, threads), all, board_, background_);
    window->span_hosts(names, *group, std::move(between));
    return std::make_unique<HostRank>(std::move(window), std::move(group));
  }

 private:
  static std::unique_ptr<SharedWindow> open(const WindowMemory& memory, int rank, bool threads) {
    if (!threads) return memory.attach(rank);
    return std::make_unique<SharedWindow>(memory.memory(), memory.shape(), rank);
  }

  const bool background_;
  std::vector<int> host_of_, first_;
  std::vector<WindowMemory> windows_;
  std::unique_ptr<WindowMemory> everyone_, leaders_;
  HostsBoard& board_ = HostsBoard::make();
};

std::string sum_for_ever(Communicator& group, milliseconds patience = kPatience) {
  for (int round = 1;; ++round) {
    const std::string wrong = sum_once(group, round, kMessage, patience);
    if (!wrong.empty()) return wrong;
  }
}

// The engine between hosts sums in the background, as Gloo does, or only in wait(), as engines of Python do.
class SeveralHosts : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Engine, SeveralHosts, ::testing::Values(true, false),
                         [](const auto& background) { return background.param ? "Background" : "InWait"; });

const std::vector<std::vector<int>> kShapes = {{2, 2}, {1, 3}, {3, 1, 2}};

TEST_P(SeveralHosts, SumsOfEveryLength) {
  for (const auto& sizes : kShapes) {
    const Hosts hosts(sizes, GetParam());
    RankProcesses ranks(hosts.size(), [&](int rank) {
      const auto group = hosts.attach(rank);
      std::mt19937 random(static_cast<unsigned>(rank));
      std::string wrong;
      for (int round = 0; round < 60 && wrong.empty(); ++round) {
        if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
        wrong = sum_once(*group, round, static_cast<std::size_t>(round) * 1237 % 8000, kPatience);
      }
      return wrong;
    });
    for (int rank = 0; rank < hosts.size(); ++rank) EXPECT_EQ(ranks.outcome(rank), "") << "rank " << rank;
  }
}

// The thread sanitizer sees both sides of every access.
TEST_P(SeveralHosts, ThreadsOnOneMapping) {
  const Hosts hosts({2, 3}, GetParam());
  std::vector<std::string> outcomes(static_cast<std::size_t>(hosts.size()), "did not end");
  std::vector<std::thread> threads;
  for (int rank = 0; rank < hosts.size(); ++rank) {
    threads.emplace_back([&, rank] {
      outcomes[static_cast<std::size_t>(rank)] = testing::outcome_of([&] {
        const auto group = hosts.attach(rank, true);
        std::string wrong;
        for (int round = 0; round < 100 && wrong.empty(); ++round)
          wrong = sum_once(*group, round, 1 + static_cast<std::size_t>(round) * 61 % 6000, kPatience);
        return wrong;
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& outcome : outcomes) EXPECT_EQ(outcome, "");
}

// Only leaders send to other hosts: half of the ranks, and one message each for a sum of one piece.
TEST_P(SeveralHosts, OnlyLeadersUseTheEngine) {
  constexpr int kRounds = 10;
  const Hosts hosts({2, 2}, GetParam());
  RankProcesses ranks(hosts.size(), [&](int rank) {
    const auto group = hosts.attach(rank);
    std::string wrong;
    for (int round = 0; round < kRounds && wrong.empty(); ++round)
      wrong = sum_once(*group, round, 100, kPatience);
    return wrong;
  });
  for (int rank = 0; rank < hosts.size(); ++rank) {
    EXPECT_EQ(ranks.outcome(rank), "");
    EXPECT_EQ(hosts.board().messages[static_cast<std::size_t>(rank)], rank % 2 == 0 ? kRounds : 0) << rank;
  }
}

// A death of a member or of a leader, at any moment, is the same error on both hosts.
TEST_P(SeveralHosts, KilledAtRandomMoments) {
  constexpr int kTrials = 5;
  std::mt19937 random(7);
  for (const int victim : {0, 1, 2, 3}) {
    for (int trial = 0; trial < kTrials; ++trial) {
      const Hosts hosts({2, 2}, GetParam());
      RankProcesses ranks(hosts.size(), [&](int rank) {
        const auto group = hosts.attach(rank);
        sum_once(*group, 0, 10, kPatience);
        ++hosts.board().flag;
        return sum_for_ever(*group, milliseconds(20'000));
      });
      const auto begin = Clock::now();
      while (hosts.board().flag < hosts.size() && Clock::now() - begin < kPatience)
        std::this_thread::sleep_for(milliseconds(1));
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 4000));
      ranks.signal(victim, SIGKILL);
      for (int rank = 0; rank < hosts.size(); ++rank) {
        if (rank == victim) continue;
        const std::string outcome = ranks.outcome(rank);
        // The test's engine numbers leaders by their hosts. Gloo numbers them as the group does.
        const bool of_engine =
            victim % 2 == 0 && outcome == fmt::format("PeerError: connection closed by rank {}", victim / 2);
        EXPECT_TRUE(outcome == fmt::format("PeerError: connection closed by rank {}", victim) || of_engine)
            << "rank " << rank << ", victim " << victim << ", trial " << trial << ": " << outcome;
      }
      if (HasFailure()) return;
    }
  }
}

// Each rank names the rank that never came, wherever that is.
TEST_P(SeveralHosts, AtTheDeadlineTheAbsentRankIsNamed) {
  for (const int absent : {1, 2, 3}) {
    const Hosts hosts({2, 2}, GetParam());
    RankProcesses ranks(hosts.size(), [&](int rank) {
      const auto group = hosts.attach(rank);
      std::string wrong = sum_once(*group, 0, 10, kPatience);
      if (rank == absent) {
        for (;;) pause();
      }
      return wrong.empty() ? sum_once(*group, 1, 10, milliseconds(1000)) : wrong;
    });
    for (int rank = 0; rank < hosts.size(); ++rank) {
      if (rank == absent) continue;
      const std::string outcome = ranks.outcome(rank);
      EXPECT_TRUE(outcome.ends_with(fmt::format("waiting for rank {}", absent)))
          << "rank " << rank << ": " << outcome;
    }
  }
}

// The ranks of both hosts name the rank that left.
TEST_P(SeveralHosts, LeftWithoutTheCall) {
  for (const int leaver : {1, 3}) {
    const Hosts hosts({2, 2}, GetParam());
    RankProcesses ranks(hosts.size(), [&](int rank) -> std::string {
      const auto group = hosts.attach(rank);
      const std::string wrong = sum_once(*group, 0, 10, kPatience);
      if (rank == leaver || !wrong.empty()) return wrong;
      return sum_once(*group, 1, 10, kPatience);
    });
    for (int rank = 0; rank < hosts.size(); ++rank)
      EXPECT_EQ(ranks.outcome(rank),
                rank == leaver
                    ? ""
                    : fmt::format("PeerError: the group was left without this call by rank {}", leaver));
  }
}

TEST_P(SeveralHosts, AnInterruptEndsTheWait) {
  for (const int interrupted : {0, 1}) {
    const Hosts hosts({2, 2}, GetParam());
    RankProcesses ranks(hosts.size(), [&](int rank) -> std::string {
      const auto group = hosts.attach(rank);
      std::string wrong = sum_once(*group, 0, 10, kPatience);
      if (!wrong.empty()) return wrong;
      if (rank == interrupted) set_interrupt_check([] { return true; });
      if (rank == 3) std::this_thread::sleep_for(milliseconds(500));  // so that the interrupted rank waits
      return sum_for_ever(*group);
    });
    for (int rank = 0; rank < hosts.size(); ++rank) {
      const std::string outcome = ranks.outcome(rank);
      EXPECT_TRUE(rank == interrupted ? outcome == "Interrupted" : outcome.starts_with("PeerError: "))
          << "rank " << rank << ": " << outcome;
    }
  }
}

// Members have their sum while the leader's program works between start and wait.
TEST(SeveralHostsInBackground, ProgressDoesNotDependOnTheLeadersWait) {
  const Hosts hosts({2, 2});
  HostsBoard& board = hosts.board();
  RankProcesses ranks(hosts.size(), [&](int rank) -> std::string {
    const auto group = hosts.attach(rank);
    const auto words = group->buffer(10).first(10);
    std::fill(words.begin(), words.end(), rank);
    group->start(10);
    const auto begin = Clock::now();
    while (rank % 2 == 0 && board.flag < 2) {  // the leaders
      if (Clock::now() - begin > milliseconds(20'000)) return "the members have no sum";
      std::this_thread::sleep_for(milliseconds(1));
    }
    group->wait(Clock::now() + kPatience);
    ++board.flag;
    return words[9] == 0 + 1 + 2 + 3 ? "" : "wrong sum";
  });
  for (int rank = 0; rank < hosts.size(); ++rank) EXPECT_EQ(ranks.outcome(rank), "") << "rank " << rank;
}

// As HostileWriter in shared_window_faults_test.cpp, for the words that only a leader and its members read.
TEST_P(SeveralHosts, GarbageInEveryControlWord) {
  const Hosts hosts({2, 2}, GetParam());
  const WindowMemory& memory = hosts.window(1);
  const std::size_t words = (sizeof(WindowHead) + sizeof(RankLine) * 2) / 8;
  RankProcesses ranks(hosts.size(), [&](int rank) -> std::string {
    const auto group = hosts.attach(rank);
    const std::string wrong = sum_once(*group, 0, 10, kPatience);
    if (!wrong.empty()) return wrong;
    ++hosts.board().flag;
    return sum_for_ever(*group, milliseconds(500));
  });
  const auto begin = Clock::now();
  while (hosts.board().flag < hosts.size() && Clock::now() - begin < kPatience)
    std::this_thread::sleep_for(milliseconds(1));
  std::mt19937_64 random(5);
  for (const auto end = Clock::now() + milliseconds(300); Clock::now() < end;) {
    const std::uint64_t word = random() >> (random() % 64);
    std::memcpy(memory.memory()->data() + random() % words * 8, &word, 8);
  }
  for (int rank = 0; rank < hosts.size(); ++rank) {
    const std::string outcome = ranks.outcome(rank);
    EXPECT_TRUE(outcome.starts_with("wrong sum") || outcome.starts_with("PeerError") ||
                outcome.starts_with("TimeoutError"))
        << outcome;
  }
}

}  // namespace
}  // namespace syncbn::engines
