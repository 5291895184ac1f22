// SPDX-License-Identifier: Apache-2.0

// The engine for ranks as threads, below agreed_sum
#include "engines/threads.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "../ranks.h"

namespace syncbn {
namespace {

using engines::ThreadWorld;
using testing::expect_error;
using testing::on_ranks;
using testing::outcome;
using testing::soon;
using namespace std::chrono_literals;

void sum(Communicator& communicator, std::size_t words, std::int64_t value, Deadline deadline) {
  std::ranges::fill(communicator.buffer(words).first(words), value);
  communicator.start(words);
  communicator.wait(deadline);
}

TEST(Threads, SumsManyTimes) {
  for (const int size : {2, 3, 8}) {
    SCOPED_TRACE(size);
    for (const std::string& text : on_ranks(size, [size](Communicator& c) {
           for (std::size_t i = 0; i < 100; ++i) {
             const std::size_t words = i * 37 % 200;
             sum(c, words, c.rank() + static_cast<std::int64_t>(i), soon());
             const std::int64_t expected = size * (size - 1) / 2 + size * static_cast<std::int64_t>(i);
             for (std::size_t w = 0; w < words; ++w) ASSERT_EQ(c.buffer(words)[w], expected) << "sum " << i;
           }
         })) {
      EXPECT_EQ(text, "ok");
    }
  }
}

TEST(Threads, SumsWrap) {
  on_ranks(2, [](Communicator& c) {
    sum(c, 1, std::numeric_limits<std::int64_t>::max(), soon());
    EXPECT_EQ(c.buffer(1)[0], -2);
  });
}

TEST(Threads, GroupRankIsThePositionInTheList) {
  const auto world = std::make_shared<ThreadWorld>(3);
  run_ranks(3, [&](int rank) {
    const auto communicator = world->connect({"g", {2, 0, 1}, 0}, rank, soon());
    EXPECT_EQ(communicator->rank(), (rank + 1) % 3);
    EXPECT_EQ(communicator->size(), 3);
    sum(*communicator, 1, 1, soon());
  });
}

std::vector<std::unique_ptr<Communicator>> connected(int size) {
  const auto world = std::make_shared<ThreadWorld>(size);
  std::vector<std::unique_ptr<Communicator>> c(static_cast<std::size_t>(size));
  run_ranks(size, [&](int r) {
    c[static_cast<std::size_t>(r)] = world->connect({"g", testing::first_ranks(size), 0}, r, soon());
  });
  return c;
}

TEST(Threads, WhoIsMissingAtTheDeadline) {
  const auto c = connected(4);
  c[2]->start(0);
  expect_error<TimeoutError>([&] { sum(*c[0], 0, 1, std::chrono::steady_clock::now() + 20ms); },
                             {"ranks 1, 3"});
}

TEST(Threads, ALateRankMayStillSucceed) {
  auto c = connected(2);
  expect_error<TimeoutError>([&] { sum(*c[0], 1, 5, std::chrono::steady_clock::now() + 20ms); }, {"rank 1"});
  EXPECT_EQ(outcome([&] { sum(*c[1], 1, 7, soon()); }), "ok");
  EXPECT_EQ(c[1]->buffer(1)[0], 12);
  expect_error<PeerError>([&] { sum(*c[1], 1, 7, soon()); }, {"rank 0", "deadline"});
}

TEST(Threads, AbortFreesTheOthersAndNamesTheRank) {
  const auto outcomes = on_ranks(3, [](Communicator& c) {
    if (c.rank() == 1) return c.abort();
    sum(c, 1, 1, soon());
  });
  expect_error<PeerError>(outcomes[0], {"rank 1 ... left"});
  expect_error<PeerError>(outcomes[2], {"rank 1 ... left"});
}

TEST(Threads, AbortFromAnotherThreadEndsTheWait) {
  auto c = connected(2);
  std::thread aborter([&] { c[0]->abort(); });
  expect_error<PeerError>([&] { sum(*c[0], 1, 1, soon()); }, {"this rank ... left"});
  aborter.join();
}

TEST(Threads, WhatARankHasBroughtOutlivesIt) {
  auto c = connected(2);
  c[0]->buffer(1)[0] = 4;
  c[0]->start(1);
  c[0].reset();
  EXPECT_EQ(outcome([&] { sum(*c[1], 1, 7, soon()); }), "ok");
  EXPECT_EQ(c[1]->buffer(1)[0], 11);
}

TEST(Threads, UnequalLengthsAreAHardError) {
  for (const std::string& text :
       on_ranks(3, [](Communicator& c) { sum(c, c.rank() == 0 ? 5 : 6, 1, soon()); })) {
    expect_error<PeerError>(text, {"rank", "5", "6"});
  }
}

TEST(Threads, ARankThatLeavesItsWorldIsNamedInEveryGroup) {
  const auto world = std::make_shared<ThreadWorld>(3);
  std::vector<std::string> outcomes(3);
  run_ranks(3, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (rank == 2) return world->depart(2, "failed: bad luck");
    outcomes[r] = outcome([&] {
      const auto pair = world->connect({"pair", {0, 1}, 0}, rank, soon());
      sum(*pair, 1, 1, soon());  // a group without it works
      world->connect({"all", {2, 1, 0}, 0}, rank, soon());
    });
  });
  expect_error<PeerError>(outcomes[0], {"world rank 2 ... bad luck"});
  expect_error<PeerError>(outcomes[1], {"world rank 2 ... bad luck"});
}

TEST(Threads, ADestroyedGroupCanBeMadeAgain) {
  const auto world = std::make_shared<ThreadWorld>(2);
  run_ranks(2, [&](int rank) {
    for (int generation = 0; generation < 20; ++generation) {
      const auto communicator = world->connect({"g", {0, 1}, generation}, rank, soon());
      sum(*communicator, 1, generation, soon());
      EXPECT_EQ(communicator->buffer(1)[0], 2 * generation);
    }
  });
}

}  // namespace
}  // namespace syncbn
