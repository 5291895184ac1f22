// SPDX-License-Identifier: Apache-2.0

// The executor finds the faults that it is there for. Each test has the kernel without its fault beside it.

#include "device/executor.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "device/simt.h"

namespace syncbn::device::simt {
namespace {

constexpr Order kOrders[] = {Order::forward, Order::backward, Order::shuffled};
constexpr unsigned kThreads = 64;

struct Slots {
  std::uint32_t of[kThreads];
};

// Each thread reads what another has written.
template <bool kBarrier>
void reverse(std::uint32_t* out) {
  const Place place = here();
  Slots& slots = shared<Slots>();
  slots.of[place.thread] = place.thread;
  if constexpr (kBarrier) barrier();
  out[place.thread] = slots.of[kThreads - 1 - place.thread];
}
template <bool kBarrier>
std::size_t wrong_slots(Order order) {
  std::vector<std::uint32_t> out(kThreads);
  const Scheduled scheduled(order);
  launch(1, kThreads, nullptr, reverse<kBarrier>, out.data());
  std::size_t wrong = 0;
  for (unsigned t = 0; t < kThreads; ++t) wrong += out[t] != kThreads - 1 - t ? 1 : 0;
  return wrong;
}
TEST(Executor, FindsAMissingBarrier) {
  for (const Order order : kOrders) {
    EXPECT_EQ(0U, wrong_slots<true>(order));
    EXPECT_NE(0U, wrong_slots<false>(order));
  }
}

template <bool kDivergent>
void vote(std::uint32_t* out) {
  const std::uint32_t thread = here().thread;
  bool result = thread == 3;
  if constexpr (kDivergent) {
    result = result || any(thread == 40);  // thread 3 does not come
  } else {
    result |= any(thread == 40);
  }
  out[thread] = result ? 1 : 0;
}
TEST(Executor, FindsAVoteThatSomeThreadsSkip) {
  std::vector<std::uint32_t> out(kThreads);
  for (const Order order : kOrders) {
    const Scheduled scheduled(order);
    launch(1, kThreads, nullptr, vote<false>, out.data());
    for (unsigned t = 0; t < kThreads; ++t) EXPECT_EQ(t == 3 || t >= 32 ? 1U : 0U, out[t]);
    EXPECT_THROW(launch(1, kThreads, nullptr, vote<true>, out.data()), Fault);
  }
  launch(1, kThreads, nullptr, vote<false>, out.data());  // goes on after a fault
}

template <bool kEarly>
void leave_early(std::uint32_t* out) {
  if (kEarly && here().thread == 5) return;
  barrier();
  out[here().thread] = 1;
}
TEST(Executor, FindsABarrierThatAThreadSkips) {
  std::vector<std::uint32_t> out(kThreads);
  launch(1, kThreads, nullptr, leave_early<false>, out.data());
  EXPECT_THROW(launch(1, kThreads, nullptr, leave_early<true>, out.data()), Fault);
}

// Shared memory begins with nonsense, in each block anew.
template <bool kClear>
void count(std::int64_t* out) {
  struct Counter {
    std::int64_t value;
  };
  Counter& counter = shared<Counter>();
  if (kClear && here().thread == 0) counter.value = 0;
  barrier();
  atomic_add(&counter.value, 1);
  barrier();
  if (here().thread == 0) out[here().block] = counter.value;
}
TEST(Executor, SharedMemoryIsNotCleared) {
  std::vector<std::int64_t> out(2);
  launch(2, kThreads, nullptr, count<true>, out.data());
  EXPECT_EQ((std::vector<std::int64_t>{kThreads, kThreads}), out);
  launch(2, kThreads, nullptr, count<false>, out.data());
  EXPECT_NE(kThreads, out[0]);
  EXPECT_NE(kThreads, out[1]);
}

TEST(Executor, FindsTooMuchSharedMemory) {
  struct Large {
    char bytes[40 << 10];
  };
  struct Small {
    char bytes[10 << 10];
  };
  constexpr auto one = [] { shared<Large>().bytes[0] = 1; };
  constexpr auto both = [] {
    shared<Large>().bytes[0] = 1;
    shared<Small>().bytes[0] = 1;
  };
  launch(1, 1, nullptr, static_cast<void (*)()>(one));
  EXPECT_THROW(launch(1, 1, nullptr, static_cast<void (*)()>(both)), Fault);
}

void copy_four(const float* from, float* to) { store(to, load<4>(from)); }
TEST(Executor, FindsAMisalignedAccess) {
  alignas(16) float from[8] = {1, 2, 3, 4, 5, 6, 7, 8}, to[8];
  launch(1, 1, nullptr, copy_four, from + 4, to + 0);
  EXPECT_EQ(8, to[3]);
  EXPECT_THROW(launch(1, 1, nullptr, copy_four, from + 1, to + 0), Fault);
  EXPECT_THROW(launch(1, 1, nullptr, copy_four, from + 0, to + 2), Fault);
}

// The shuffled order differs from seed to seed; the others are what their names say.
TEST(Executor, Orders) {
  const auto turns = [](Order order, unsigned seed) {
    static std::vector<unsigned> seen;
    seen.clear();
    const Scheduled scheduled(order, seed);
    launch(
        2, 3, nullptr, +[] { seen.push_back(10 * here().block + here().thread); });
    return seen;
  };
  EXPECT_EQ((std::vector<unsigned>{0, 1, 2, 10, 11, 12}), turns(Order::forward, 1));
  EXPECT_EQ((std::vector<unsigned>{12, 11, 10, 2, 1, 0}), turns(Order::backward, 1));
  std::set<std::vector<unsigned>> shuffled;
  for (unsigned seed = 0; seed < 20; ++seed) shuffled.insert(turns(Order::shuffled, seed));
  EXPECT_GT(shuffled.size(), 5U);
  EXPECT_EQ(turns(Order::shuffled, 7), turns(Order::shuffled, 7));
}

TEST(Executor, WarpOperations) {
  std::vector<std::uint32_t> out(kThreads);
  launch(
      1, kThreads, nullptr, +[](std::uint32_t* to) { to[here().thread] = max_of_warp(here().thread ^ 5); },
      out.data());
  EXPECT_EQ(31U, out[0]);
  EXPECT_EQ(63U, out[40]);
  launch(
      1, kThreads, nullptr, +[](std::uint32_t* to) { to[here().thread] = min_of_warp(here().thread + 7); },
      out.data());
  EXPECT_EQ(7U, out[31]);
  EXPECT_EQ(39U, out[32]);
  launch(
      1, kThreads, nullptr, +[](std::uint32_t* to) { to[here().thread] = shuffle_xor(here().thread, 9U); },
      out.data());
  for (unsigned t = 0; t < kThreads; ++t) EXPECT_EQ(t ^ 9, out[t]);
}

}  // namespace
}  // namespace syncbn::device::simt
