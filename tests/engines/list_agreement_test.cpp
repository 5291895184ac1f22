// SPDX-License-Identifier: Apache-2.0

// Members find out that they mean the same list, at once, and old groups of the same name accuse nobody.
#include "engines/list_agreement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "../ranks.h"
#include "rendezvous/memory_store.h"

namespace syncbn::engines {
namespace {

using testing::expect_error;
using testing::outcome;
using testing::soon;
using namespace std::chrono_literals;

using List = std::vector<int>;

// Each world rank connects the groups of its program one after the other; the outcome of the last.
std::vector<std::string> agree(const std::vector<std::vector<group::GroupSpec>>& programs,
                               std::chrono::milliseconds patience) {
  const auto board = std::make_shared<rendezvous::MemoryBoard>();
  std::vector<std::string> outcomes(programs.size());
  run_ranks(static_cast<int>(programs.size()), [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    rendezvous::MemoryStore store(board);
    for (const group::GroupSpec& spec : programs[r]) {
      outcomes[r] =
          outcome([&] { agree_on_list(store, spec, rank, std::chrono::steady_clock::now() + patience); });
    }
  });
  return outcomes;
}

TEST(ListAgreement, EqualListsAgreeOnOneKey) {
  const auto board = std::make_shared<rendezvous::MemoryBoard>();
  std::vector<std::string> keys(4);
  run_ranks(4, [&](int rank) {
    rendezvous::MemoryStore store(board);
    const List list = rank % 2 == 0 ? List{2, 0} : List{1, 3};  // one name, two groups that share nobody
    keys[static_cast<std::size_t>(rank)] = agree_on_list(store, {"dp", list, 0}, rank, soon());
  });
  EXPECT_EQ(keys[0], keys[2]);
  EXPECT_EQ(keys[1], keys[3]);
  EXPECT_NE(keys[0], keys[1]);
}

// Control: with judge() empty, these end at the deadline of 60 s as TimeoutError.
TEST(ListAgreement, DifferentListsAreAMismatchForEveryMember) {
  const std::vector<std::vector<List>> cases = {
      // by world rank
      {{0, 1}, {1, 0}},
      {{0, 1, 2}, {0, 1, 2}, {0, 2, 1}},
      {{0, 1}, {0, 1, 2}, {0, 1, 2}},  // rank 2 isn't in rank 0's list: it hears of it from rank 1
  };
  for (const std::vector<List>& lists : cases) {
    std::vector<std::vector<group::GroupSpec>> programs;
    for (const List& list : lists) programs.push_back({{"dp", list, 0}});
    for (const std::string& text : agree(programs, 60s)) {
      for (const List& list : {lists.front(), lists.back()}) {
        expect_error<MismatchError>(text, {fmt::format("world rank ... [{}]", fmt::join(list, ", "))});
      }
    }
  }
}

// Every rank makes, uses and destroys groups of one name, of changing lists, in the same order on all ranks.
// Control: with joined_ left empty, right programs are accused.
TEST(ListAgreement, OldGroupsOfTheNameAccuseNobody) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 20; ++trial) {
    const int size = 2 + trial % 5;
    std::vector<std::vector<group::GroupSpec>> programs(static_cast<std::size_t>(size));
    std::map<List, int> generations;
    for (int i = 0; i < 12; ++i) {
      List list = testing::first_ranks(size);
      std::shuffle(list.begin(), list.end(), random);
      list.resize(2 + random() % (static_cast<std::size_t>(size) - 1));
      const int generation = generations[list]++;
      for (const int member : list)
        programs[static_cast<std::size_t>(member)].push_back({"dp", list, generation});
    }
    SCOPED_TRACE(fmt::format("trial {}, {} ranks", trial, size));
    const auto board = std::make_shared<rendezvous::MemoryBoard>();
    run_ranks(size, [&](int rank) {
      rendezvous::MemoryStore store(board);
      for (const group::GroupSpec& spec : programs[static_cast<std::size_t>(rank)]) {
        EXPECT_EQ(outcome([&] { agree_on_list(store, spec, rank, soon()); }), "ok")
            << "rank " << rank << ", " << fmt::format("{}", spec.generation);
      }
    });
  }
}

TEST(ListAgreement, ADifferenceAfterAnOldGroupIsFound) {
  const group::GroupSpec old{"dp", {0, 1}, 0};
  const auto outcomes = agree({{old, {"dp", {0, 1}, 1}}, {old, {"dp", {1, 0}, 0}}}, 60s);
  for (const std::string& text : outcomes) expect_error<MismatchError>(text, {});
}

TEST(ListAgreement, WhoNeverCameAndWhatWasSeen) {
  expect_error<TimeoutError>(agree({{{"dp", {0, 1, 2, 3}, 0}}, {{"dp", {0, 1, 2, 3}, 0}}, {}, {}}, 100ms)[0],
                             {"[0, 1, 2, 3]", "world ranks 2-3"});
  // Rank 1 may still come to rank 0's list once it is done with its own, so only the deadline can tell.
  expect_error<TimeoutError>(agree({{{"dp", {0, 1}, 0}}, {{"dp", {1, 2}, 0}}, {{"dp", {1, 2}, 0}}}, 100ms)[0],
                             {"world rank 1 ... [0, 1] ... world rank 1 ... [1, 2]"});
  expect_error<TimeoutError>(agree({{{"dp", {0, 1}, 2}}, {{"dp", {0, 1}, 0}}}, 100ms)[0],
                             {"[0, 1] ... world rank 1 ... [0, 1]", "1", "3"});
}

TEST(ListAgreement, NamesMayHoldAnything) {
  for (const std::string name : {"a/b", "a", "", "1", "a b\n", "组"}) {
    SCOPED_TRACE(name);
    for (const std::string& text : agree({{{name, {0, 1}, 0}}, {{name, {0, 1}, 0}}}, 60s))
      EXPECT_EQ(text, "ok");
  }
}

TEST(ListAgreement, ForeignEntriesAreAnErrorNotAGroup) {
  for (const std::string entry :
       {"", "1", "1 0", "x 0 1 2", "1x0 0 1", "1 0 0 99999999999999", "!no", "1 0!no"}) {
    const auto board = std::make_shared<rendezvous::MemoryBoard>();
    rendezvous::MemoryStore store(board);
    store.set(fmt::format("board/dp/{}", store.add("board/dp", 1)), entry);
    expect_error<PeerError>(
        [&] {
          agree_on_list(store, {"dp", {0, 1}, 0}, 0, soon());
        },
        {fmt::format("'{}'", entry)});
  }
}

}  // namespace
}  // namespace syncbn::engines
