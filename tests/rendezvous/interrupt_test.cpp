// SPDX-License-Identifier: Apache-2.0

// A program ends its waits by its own check.
//
// control: without check_interrupt() in run_ranks the first case fails by its ranks' deadline, without it in
// a socket's wait the second by its own.

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/interrupt.h"
#include "rendezvous/socket.h"
#include "syncbn/syncbn.h"

namespace syncbn {
namespace {

std::atomic<int> asked{0};
std::thread::id asks;  // as Python's signals are the main thread's

bool interrupted() { return std::this_thread::get_id() == asks && ++asked >= 2; }

class Interrupt : public ::testing::Test {
 protected:
  Interrupt() {
    asked = 0;
    asks = std::this_thread::get_id();
    set_interrupt_check(interrupted);
  }
  ~Interrupt() override { set_interrupt_check(nullptr); }
};

// Whoever waits for a rank fails, and then the caller.
TEST_F(Interrupt, RunRanks) {
  std::atomic<bool> failed = false;
  EXPECT_THROW(run_ranks(2,
                         [&](int rank) {
                           if (rank == 0) {
                             std::vector<float> value(1);
                             EXPECT_THROW(all_reduce_sum(value), PeerError);
                             failed = true;
                           }
                           while (!failed) std::this_thread::yield();
                         }),
               Interrupted);
  EXPECT_TRUE(failed);
}

TEST_F(Interrupt, Socket) {
  const base::Fd listener = rendezvous::listen_on("127.0.0.1", 0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const base::Fd client =
      rendezvous::connect_to("127.0.0.1", rendezvous::local_port(listener.get()), deadline);
  std::string bytes;
  EXPECT_THROW(rendezvous::recv_some(client.get(), bytes, deadline), Interrupted);
  EXPECT_GE(asked, 2);
}

TEST_F(Interrupt, NobodyAsksWithoutACheck) {
  set_interrupt_check(nullptr);
  base::check_interrupt();
  EXPECT_EQ(0, asked);
}

}  // namespace
}  // namespace syncbn
