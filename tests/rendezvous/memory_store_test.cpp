// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/memory_store.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "../ranks.h"

namespace syncbn::rendezvous {
namespace {

using namespace syncbn::testing;

TEST(MemoryStore, WaitsForAKeyUntilItIsSet) {
  const auto board = std::make_shared<MemoryBoard>();
  std::thread setter([&] { MemoryStore(board).set("key", "value"); });
  EXPECT_EQ(MemoryStore(board).get("key", soon()), "value");
  setter.join();
}

TEST(MemoryStore, Counts) {
  MemoryStore store(std::make_shared<MemoryBoard>());
  EXPECT_EQ(store.add("n", 2), 2);
  EXPECT_EQ(store.add("n", -5), -3);
  expect_error<TimeoutError>([&] { store.get("n", std::chrono::steady_clock::now() + 10ms); }, {"'n'"});
}

TEST(MemoryStore, ALeavingMemberFreesThoseWhoWaitWithIt) {
  const auto board = std::make_shared<MemoryBoard>();
  std::thread leaver([&] { board->depart(3, "has had enough"); });
  MemoryStore with(board, {1, 3});
  expect_error<PeerError>([&] { with.get("key", soon()); }, {"world rank 3 ... has had enough"});
  leaver.join();
  MemoryStore without(board, {1, 2});
  expect_error<TimeoutError>([&] { without.get("key", std::chrono::steady_clock::now() + 10ms); }, {"'key'"});
  without.set("key", "value");
  EXPECT_EQ(with.get("key", soon()), "value");  // what was set stays
}

}  // namespace
}  // namespace syncbn::rendezvous
