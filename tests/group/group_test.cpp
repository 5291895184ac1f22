// SPDX-License-Identifier: Apache-2.0

// One group as a member sees it: context of errors, what breaks it and what stays, deadlines, closing
#include "group/group.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <thread>

#include "../ranks.h"

namespace syncbn {
namespace {

using Call = group::CallDescription;
using testing::expect_error;
using testing::outcome;
using namespace std::chrono_literals;

const Call kForward{"forward of layer 'bn1'", "C=2, eps=1e-05"};

base::TimeLimit within(std::chrono::milliseconds time) { return {time, "SYNCBN_TIMEOUT_S"}; }

// The members of one group of threads, each used by a thread of the test's own.
struct Members {
  explicit Members(int size, std::chrono::milliseconds timeout = 60s) {
    for (int r = 0; r < size; ++r) {
      auto connect = [this, size, r](Deadline deadline) {
        ++connections;
        return world->connect({"dp", testing::first_ranks(size), 0}, r, deadline);
      };
      members.push_back(
          std::make_unique<Group>("dp", testing::first_ranks(size), r, within(timeout), connect));
    }
  }
  Group& operator[](std::size_t rank) { return *members[rank]; }

  // The outcome of a sum of `calls[r]` on every rank r at once; no call, no sum.
  std::vector<std::string> sum(const std::vector<const Call*>& calls) {
    std::vector<std::string> outcomes(calls.size());
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < calls.size(); ++r) {
      if (calls[r] == nullptr) continue;
      threads.emplace_back([&, r] {
        std::vector<std::int64_t> payload(3, 1);
        outcomes[r] = outcome([&] { members[r]->sum(*calls[r], payload); });
      });
    }
    for (std::thread& thread : threads) thread.join();
    return outcomes;
  }

  std::shared_ptr<engines::ThreadWorld> world = std::make_shared<engines::ThreadWorld>(8);
  std::atomic<int> connections{0};
  std::vector<std::unique_ptr<Group>> members;
};

TEST(Group, ConnectsAtTheFirstSumAndOnce) {
  Members members(3);
  EXPECT_EQ(members.connections, 0);
  for (int i = 0; i < 5; ++i) {
    for (const std::string& text : members.sum({&kForward, &kForward, &kForward})) EXPECT_EQ(text, "ok");
  }
  EXPECT_EQ(members.connections, 3);
}

TEST(Group, OfOneNeverConnects) {
  Group alone("alone", {3}, 0, within(1s), nullptr);
  std::vector<std::int64_t> payload{7};
  alone.sum(kForward, payload);
  EXPECT_EQ(payload[0], 7);
  alone.fail(kForward, "a wrong argument");  // nobody to tell, nothing to break
  alone.sum(kForward, payload);
  alone.close("it was enough");
  expect_error<GroupError>([&] { alone.sum(kForward, payload); },
                           {"'alone'", "forward of layer 'bn1'", "it was enough"});
}

TEST(Group, AMismatchBreaksIt) {
  Members members(3);
  const Call other{"forward of layer 'bn1'", "C=2, eps=0.001"};
  members.sum({&kForward, &kForward, &kForward});
  int rank = 0;
  for (const std::string& text : members.sum({&kForward, &kForward, &other})) {
    expect_error<MismatchError>(text,
                                {"'dp'", "call 2", "forward of layer 'bn1'",
                                 fmt::format("rank {} ... rank 2 ... forward of layer 'bn1' ... eps=0.001 "
                                             "... ranks 0-1 ... forward of layer 'bn1' ... eps=1e-05",
                                             rank++)});
  }
  expect_error<GroupError>(
      members.sum({&kForward, nullptr, nullptr})[0],
      {"'dp'", "forward of layer 'bn1'", "call 2", "rank 2 ... eps=0.001 ... ranks 0-1 ... eps=1e-05"});
  EXPECT_EQ(members.connections, 3);
}

TEST(Group, AFailedRankBreaksItEverywhere) {
  Members members(2);
  std::thread failing([&] { members[1].fail(kForward, "x: shape (2, 3), expected num_features = 2"); });
  expect_error<PeerError>(
      members.sum({&kForward, nullptr})[0],
      {"'dp'", "call 1", "forward of layer 'bn1'", "rank 0 ... rank 1 ... (2, 3) ... num_features ... 2"});
  failing.join();
  expect_error<GroupError>(members.sum({nullptr, &kForward})[1],
                           {"'dp'", "forward of layer 'bn1'", "call 1", "(2, 3)", "num_features ... 2"});
  members[1].fail(kForward, "again");  // nothing happens, nobody is waited for
}

TEST(Group, ThePeerThatNeverCalls) {
  Members members(3, 150ms);
  const auto outcomes = members.sum({&kForward, &kForward, nullptr});  // it never connects, either
  for (const std::size_t r : {0u, 1u}) {
    expect_error<TimeoutError>(
        outcomes[r], {"'dp'", "call 1", "forward of layer 'bn1'", fmt::format("rank {}", r), "0.15 s",
                      "SYNCBN_TIMEOUT_S", "[0, 1, 2]", "world rank 2"});
  }
}

TEST(Group, ThePeerThatStopsCalling) {
  Members members(2, 1s);
  ASSERT_EQ(members.sum({&kForward, &kForward})[0], "ok");
  expect_error<TimeoutError>(
      members.sum({&kForward, nullptr})[0],
      {"'dp'", "call 2", "forward of layer 'bn1'", "rank 0", "1 s", "SYNCBN_TIMEOUT_S", "rank 1"});
  // It is late: the sum stands, and the next call tells.
  EXPECT_EQ(members.sum({nullptr, &kForward})[1], "ok");
  expect_error<PeerError>(members.sum({nullptr, &kForward})[1],
                          {"'dp'", "call 3", "forward of layer 'bn1'", "rank 1 ... rank 0", "deadline"});
  expect_error<GroupError>(members.sum({&kForward, nullptr})[0],
                           {"'dp'", "forward of layer 'bn1'", "call 2", "rank 1"});
}

TEST(Group, CloseGivesUpASumOnAnotherThread) {
  Members members(2);
  ASSERT_EQ(members.sum({&kForward, &kForward})[0], "ok");
  std::string waited;
  std::thread waiting([&] { waited = members.sum({&kForward, nullptr})[0]; });
  members[0].close("destroy_group() was called");  // before, during or after its start
  waiting.join();
  expect_error<GroupError>(waited, {"'dp'", "destroy_group()"});
  std::string late = members.sum({nullptr, &kForward})[1];
  if (late == "ok") late = members.sum({nullptr, &kForward})[1];  // what rank 0 had brought stayed valid
  expect_error<PeerError>(late, {"'dp'", "call", "rank 0 ... left"});
}

TEST(Group, CloseWhileItConnects) {
  const auto store = std::make_shared<rendezvous::MemoryBoard>();
  Group* closing = nullptr;
  Group group("dp", {0, 1}, 0, within(60s), [&](Deadline) -> std::unique_ptr<Communicator> {
    closing->close("release() was called");
    return std::make_shared<engines::ThreadWorld>(1)->connect({"dp", {0}, 0}, 0, testing::soon());
  });
  closing = &group;
  std::vector<std::int64_t> payload(1);
  expect_error<GroupError>([&] { group.sum(kForward, payload); },
                           {"'dp'", "call 1", "forward of layer 'bn1'", "rank 0", "release()"});
}

TEST(Group, CallsOfSeveralThreadsAreSerialised) {
  Members members(2);
  const auto many = [&](std::size_t rank) {
    for (int i = 0; i < 50; ++i) {
      std::vector<std::int64_t> payload(100, 1);
      members[rank].sum(kForward, payload);  // the same call on every thread, so that any order is right
      EXPECT_EQ(payload[99], 2);
    }
  };
  std::vector<std::thread> threads;
  for (const std::size_t rank : {0u, 0u, 1u, 1u}) threads.emplace_back(many, rank);
  for (std::thread& thread : threads) thread.join();
}

TEST(Group, AnEnginesOwnExceptionPassesAndBreaksIt) {
  Group group("dp", {0, 1}, 0, within(60s),
              [](Deadline) -> std::unique_ptr<Communicator> { throw std::runtime_error("no network"); });
  std::vector<std::int64_t> payload(1);
  EXPECT_THROW(group.sum(kForward, payload), std::runtime_error);
  expect_error<GroupError>([&] { group.sum(kForward, payload); },
                           {"'dp'", "forward of layer 'bn1'", "call 1", "no network"});
}

}  // namespace
}  // namespace syncbn
