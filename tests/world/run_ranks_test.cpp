// SPDX-License-Identifier: Apache-2.0

// Ranks as threads, from the outside
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "../ranks.h"
#include "syncbn/threads.h"
#include "world/resolve_group.h"

namespace syncbn {
namespace {

using testing::expect_error;
using testing::outcome;
using world::resolve_group;

std::int64_t sum_of(std::int64_t value, std::string_view group_name = kWorldGroup) {
  std::vector<std::int64_t> payload{value};
  resolve_group(group_name)->sum({"a test's sum", ""}, payload);
  return payload[0];
}

TEST(RunRanks, EveryRankHasItsOwnWorld) {
  EXPECT_FALSE(is_initialized());
  std::mutex mutex;
  std::set<int> seen;
  run_ranks(5, [&](int rank) {
    EXPECT_TRUE(is_initialized());
    EXPECT_EQ(get_rank(), rank);
    EXPECT_EQ(get_group_size(), 5);
    EXPECT_EQ(get_local_rank(), rank);
    EXPECT_EQ(get_local_rank_size(), 5);
    EXPECT_EQ(sum_of(rank), 10);
    const std::lock_guard lock(mutex);
    seen.insert(rank);
  });
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_FALSE(is_initialized());
}

TEST(RunRanks, ARankAlone) {
  run_ranks(1, [](int rank) {
    EXPECT_EQ(rank, 0);
    EXPECT_EQ(sum_of(7), 7);
  });
}

TEST(RunRanks, BadArguments) {
  expect_error<InvalidArgument>([] { run_ranks(0, [](int) {}); }, {"size", "0", "[1, 65536]"});
  expect_error<InvalidArgument>([] { run_ranks(-3, [](int) {}); }, {"size", "-3", "[1, 65536]"});
  for (const int size : {65537, INT32_MAX}) {
    expect_error<InvalidArgument>([&] { run_ranks(size, [](int) {}); },
                                  {"size", fmt::format("{}", size), "[1, 65536]"});
  }
  expect_error<InvalidArgument>([] { run_ranks(2, nullptr); }, {"body", "empty"});
}

// Control: with the order of Blame reversed, each of these shows a PeerError.
TEST(RunRanks, TheCauseIsRethrownNotItsEffects) {
  for (int culprit = 0; culprit < 4; ++culprit) {
    SCOPED_TRACE(culprit);
    std::vector<std::string> peers(4);
    try {
      run_ranks(4, [&](int rank) {
        if (rank == culprit) throw std::logic_error("bad luck");
        peers[static_cast<std::size_t>(rank)] = outcome([] { sum_of(1); });
        sum_of(1);  // rethrown as GroupError
      });
      FAIL() << "nothing was thrown";
    } catch (const std::logic_error& error) {
      EXPECT_STREQ(error.what(), "bad luck");
    }
    for (int rank = 0; rank < 4; ++rank) {
      if (rank == culprit) continue;
      expect_error<PeerError>(peers[static_cast<std::size_t>(rank)],
                              {"'world'", "call 1", "a test's sum",
                               fmt::format("rank {} ... world rank {} ... bad luck", rank, culprit)});
    }
  }
}

TEST(RunRanks, AFailureLaterNamesTheGroupRank) {
  std::vector<std::string> peers(3);
  EXPECT_THROW(run_ranks(3,
                         [&](int rank) {
                           create_group("g", {1, 2, 0});
                           EXPECT_EQ(sum_of(1, "g"), 3);
                           if (rank == 2) throw std::runtime_error("no more data");
                           peers[static_cast<std::size_t>(rank)] = outcome([] { sum_of(1, "g"); });
                         }),
               std::runtime_error);
  expect_error<PeerError>(peers[0], {"'g'", "call 2", "a test's sum", "rank 2 ... rank 1 ... no more data"});
  expect_error<PeerError>(peers[1], {"'g'", "call 2", "a test's sum", "rank 0 ... rank 1 ... no more data"});
}

TEST(RunRanks, TheLowestOfSeveralCauses) {
  expect_error<InvalidArgument>(
      [] {
        run_ranks(6, [](int rank) {
          if (rank % 2 == 1) throw InvalidArgument(fmt::format("rank {}", rank));
          sum_of(1);
        });
      },
      {"rank 1"});
}

TEST(RunRanks, WhatIsNoStdException) {
  EXPECT_THROW(run_ranks(2,
                         [](int rank) {
                           if (rank == 1) throw 5;
                           sum_of(1);
                         }),
               int);
}

TEST(RunRanks, ARankThatEndsEarlyFreesTheOthers) {
  expect_error<PeerError>(
      [] {
        run_ranks(3, [](int rank) {
          sum_of(1);
          if (rank != 1) sum_of(1);
        });
      },
      {"'world'", "call 2", "a test's sum", "rank 0 ... rank 1 ... ended"});
}

TEST(RunRanks, AMismatchIsRethrown) {
  expect_error<MismatchError>(
      [] {
        run_ranks(3, [](int rank) {
          std::vector<std::int64_t> payload(2);
          resolve_group(kWorldGroup)->sum({rank == 1 ? "one sum" : "another sum", ""}, payload);
        });
      },
      {"'world'", "call 1", "rank 0 ... rank 1 ... one sum ... ranks 0, 2 ... another sum"});
}

TEST(RunRanks, GroupsOfOthersGoOnWhereARankFails) {
  std::atomic<int> sums{0};
  EXPECT_THROW(run_ranks(4,
                         [&](int rank) {
                           if (rank == 3) throw std::runtime_error("bad luck");
                           create_group("three", {0, 1, 2});
                           for (int i = 0; i < 50; ++i) sums += sum_of(1, "three") == 3 ? 1 : 0;
                         }),
               std::runtime_error);
  EXPECT_EQ(sums, 150);
}

TEST(RunRanks, Nested) {
  std::atomic<int> sums{0};
  run_ranks(2, [&](int outer) {
    run_ranks(3, [&](int) { sums += static_cast<int>(sum_of(1)); });
    EXPECT_EQ(get_rank(), outer);
    EXPECT_EQ(sum_of(1), 2);
  });
  EXPECT_EQ(sums, 2 * 3 * 3);
}

TEST(RunRanks, CoresAreShared) {
  const int before = get_num_threads();
  set_num_threads(8);
  run_ranks(3, [](int) { EXPECT_EQ(get_num_threads(), 2); });
  run_ranks(20, [](int) { EXPECT_EQ(get_num_threads(), 1); });
  EXPECT_EQ(get_num_threads(), 8);
  set_num_threads(0);
  EXPECT_EQ(get_num_threads(), before);
}

TEST(RunRanks, InitAndReleaseInTheBody) {
  run_ranks(2, [](int rank) {
    init();  // the body of a program that runs under a launcher, too
    EXPECT_EQ(get_rank(), rank);
    expect_error<GroupError>([] { init(InitOptions{}); }, {"init", "release()"});
    EXPECT_EQ(sum_of(1), 2);
    release();
    EXPECT_FALSE(is_initialized());
    expect_error<GroupError>([] { init(); }, {"run_ranks", "released"});
    expect_error<GroupError>([] { sum_of(1); }, {"'world'", "released"});
    expect_error<GroupError>([] { release(); }, {"release", "released"});
  });
}

TEST(RunRanks, GroupsAreClosedAtTheEnd) {
  std::shared_ptr<Group> kept;
  run_ranks(2, [&](int rank) {
    sum_of(1);
    if (rank == 0) kept = resolve_group(kWorldGroup);
  });
  std::vector<std::int64_t> payload(1);
  expect_error<GroupError>(
      [&] {
        kept->sum({"a late sum", ""}, payload);
      },
      {"'world'", "a late sum", "left"});
}

TEST(RunRanks, TwoGroupsWorkAtTheSameTime) {
  run_ranks(4, [](int rank) {
    create_group(rank < 2 ? "low" : "high", rank < 2 ? std::vector<int>{0, 1} : std::vector<int>{3, 2});
    create_group("all", {3, 2, 1, 0});
    const std::string own = rank < 2 ? "low" : "high";
    std::thread other([all = resolve_group("all")] {  // a group each for threads that run in parallel
      for (int i = 0; i < 50; ++i) {
        std::vector<std::int64_t> payload{i, 1};
        all->sum({"a sum of all", ""}, payload);
        EXPECT_EQ(payload, (std::vector<std::int64_t>{4 * i, 4}));
      }
    });
    for (int i = 0; i < 50; ++i) EXPECT_EQ(sum_of(rank, own), rank < 2 ? 1 : 5);
    other.join();
  });
}

}  // namespace
}  // namespace syncbn
