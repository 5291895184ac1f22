// SPDX-License-Identifier: Apache-2.0
// Memory that several processes map, and the locks that tell which of them live.
#include "engines/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <system_error>
#include <thread>

#include "engines/rank_locks.h"
#include "rank_processes.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

constexpr std::size_t kBytes = 1 << 16;

base::Fd copy_of(int file) { return base::Fd(fcntl(file, F_DUPFD_CLOEXEC, 0)); }

TEST(SharedMemory, IsZeroAndShared) {
  const SharedMemory memory(kBytes);
  const SharedMemory same(copy_of(memory.file()), kBytes);
  for (std::size_t i = 0; i < kBytes; ++i) ASSERT_EQ(same.data()[i], std::byte{0});
  memory.data()[kBytes - 1] = std::byte{7};
  EXPECT_EQ(same.data()[kBytes - 1], std::byte{7});
}

TEST(SharedMemory, NobodyChangesItsSize) {
  const SharedMemory memory(kBytes);
  EXPECT_NE(ftruncate(memory.file(), 0), 0);
  EXPECT_NE(ftruncate(memory.file(), 2 * kBytes), 0);
  EXPECT_EQ(fcntl(memory.file(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST(SharedMemory, RefusesMemoryThatIsNotAsExpected) {
  const SharedMemory memory(kBytes);
  EXPECT_THROW(SharedMemory(copy_of(memory.file()), 2 * kBytes), PeerError);
  base::Fd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), kBytes), 0);
  EXPECT_THROW(SharedMemory(std::move(unsealed), kBytes), PeerError);
  base::Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_THROW(SharedMemory(std::move(null), kBytes), std::system_error);
}

// control: without MADV_DONTFORK the page is there and mincore() returns 0.
TEST(SharedMemory, AForkDoesNotHaveIt) {
  const SharedMemory memory(kBytes);
  testing::RankProcesses fork(1, [&](int) -> std::string {
    unsigned char resident = 0;
    return mincore(memory.data(), 1, &resident) == 0 ? "mapped" : "not mapped";
  });
  EXPECT_EQ(fork.outcome(0), "not mapped");
}

// A fork of the locking process lives on, as a worker of a data loader may.
TEST(RankLocks, TellADeathAtOnceThoughAForkLives) {
  const SharedMemory memory(kBytes);
  int ready[2], end[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(end, O_CLOEXEC), 0);
  testing::RankProcesses holder(1, [&](int) -> std::string {
    const base::Fd file = copy_of(memory.file());
    lock_rank(file.get(), 3);
    if (fork() == 0) {  // ends when no process has the second end open
      char byte;
      close(end[1]);
      while (read(end[0], &byte, 1) > 0) {
      }
      _exit(0);
    }
    close(end[1]);
    if (write(ready[1], "x", 1) != 1) return "write";
    for (;;) pause();
  });
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_TRUE(is_rank_locked(memory.file(), 3));
  EXPECT_FALSE(is_rank_locked(memory.file(), 2));
  EXPECT_THROW(lock_rank(memory.file(), 3), std::system_error);
  holder.signal(0, SIGKILL);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (is_rank_locked(memory.file(), 3) && std::chrono::steady_clock::now() < deadline)
    std::this_thread::yield();
  EXPECT_FALSE(is_rank_locked(memory.file(), 3));
  for (const int fd : {ready[0], ready[1], end[0], end[1]}) close(fd);
}

}  // namespace
}  // namespace syncbn::engines
