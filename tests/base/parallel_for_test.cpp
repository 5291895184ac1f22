// SPDX-License-Identifier: Apache-2.0

// control: without FpEnvironment in parallel_for TasksRoundToNearest fails, without the restore in its
// destructor CallersEnvironmentReturns; without pthread_atfork the child of AfterFork never ends (OpenMP);
// `i <= count` in the serial loop fails EveryTaskOnce, `k < 1` in Shares::work NoTaskWaitsForAnother.

#include "base/parallel_for.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <csignal>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/fp_environment.h"
#include "syncbn/threads.h"

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

namespace syncbn::base {
namespace {

class ParallelFor : public ::testing::Test {
 protected:
  ~ParallelFor() override {
    set_num_threads(0);
    set_parallel_for(nullptr);
  }
};

// How often each of `count` tasks ran.
std::vector<int> runs(int count) {
  std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count) + 1);
  parallel_for(count, [&](int task) { ++seen[static_cast<std::size_t>(task)]; });
  EXPECT_EQ(0, seen.back());  // task `count` is none
  return {seen.begin(), seen.end() - 1};
}

TEST_F(ParallelFor, EveryTaskOnce) {
  for (const int threads : {1, 2, 3, 4, 9}) {
    set_num_threads(threads);
    for (const int count : {0, 1, 2, 3, 7, 100, 1000}) {
      SCOPED_TRACE(std::to_string(count) + " tasks, " + std::to_string(threads) + " threads");
      EXPECT_EQ(std::vector<int>(static_cast<std::size_t>(count), 1), runs(count));
    }
  }
}

// The first task ends when all the others have, of which some are its own thread's.
TEST_F(ParallelFor, NoTaskWaitsForAnother) {
  set_num_threads(2);
  constexpr int kCount = 8;
  std::atomic<int> done = 0;
  bool in_time = true;
  parallel_for(kCount, [&](int task) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (task == 0 && done < kCount - 1 && in_time) {
      in_time = std::chrono::steady_clock::now() < deadline;
      std::this_thread::yield();
    }
    ++done;
  });
  EXPECT_TRUE(in_time);
}

TEST_F(ParallelFor, SeveralCallersAtOnce) {
  std::vector<std::thread> callers;
  std::vector<int> wrong(4);
  for (int& mine : wrong) {
    callers.emplace_back([&mine] {
      set_num_threads(2);
      for (int k = 0; k < 20; ++k) mine += runs(50) != std::vector<int>(50, 1);
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(std::vector<int>(4, 0), wrong);
}

// Rounds upwards and, where the machine can, flushes subnormals: what another library may have left behind.
class HostileEnvironment {
 public:
  HostileEnvironment() {
    std::fegetenv(&saved_);
    std::fesetround(FE_UPWARD);
#if defined(__x86_64__) || defined(__i386__)
    _mm_setcsr(_mm_getcsr() | 0x8040u);  // flush to zero, denormals are zero
#endif
  }
  ~HostileEnvironment() { std::fesetenv(&saved_); }
  HostileEnvironment(const HostileEnvironment&) = delete;
  HostileEnvironment& operator=(const HostileEnvironment&) = delete;

 private:
  std::fenv_t saved_;
};

// 0: rounds to nearest and keeps subnormals; else what it does.
int environment() {
  const volatile double three = 3, tiny = 0x1p-1074, small = 0x1p-1022;
  const volatile float tiny_float = 0x1p-149F;
  const int rounding = 1 / three == 0x1.5555555555555p-2 ? 0 : 1;
  const int flushes = small / 2 != 0 ? 0 : 2;
  const int ignores = tiny * 2 != 0 && tiny_float * 2 != 0 ? 0 : 4;
  return rounding + flushes + ignores;
}

TEST_F(ParallelFor, TasksRoundToNearest) {
  const HostileEnvironment hostile;
  ASSERT_NE(0, environment());  // the caller's is not harmless
  for (const int threads : {1, 4}) {
    set_num_threads(threads);
    std::vector<int> seen(100, -1);
    parallel_for(100, [&](int task) { seen[static_cast<std::size_t>(task)] = environment(); });
    EXPECT_EQ(std::vector<int>(100, 0), seen) << threads << " threads";
  }
}

TEST_F(ParallelFor, CallersEnvironmentReturns) {
  const HostileEnvironment hostile;
  const int before = environment();
  for (const int threads : {1, 4}) {
    set_num_threads(threads);
    runs(10);
    EXPECT_EQ(before, environment());
  }
  {
    const FpEnvironment own;
    EXPECT_EQ(0, environment());
  }
  EXPECT_EQ(before, environment());
  EXPECT_EQ(FE_UPWARD, std::fegetround());
}

TEST_F(ParallelFor, HostPoolDoesTheWork) {
  set_num_threads(3);
  std::vector<int> counts;
  set_parallel_for([&](int count, const std::function<void(int)>& task) {
    counts.push_back(count);
    const HostileEnvironment hostile;  // of the pool's threads
    for (int i = count; i-- > 0;) task(i);
  });
  EXPECT_EQ(std::vector<int>(7, 1), runs(7));
  std::vector<int> seen(5, -1);
  parallel_for(5, [&](int task) { seen[static_cast<std::size_t>(task)] = environment(); });
  EXPECT_EQ(std::vector<int>(5, 0), seen);
  EXPECT_EQ((std::vector<int>{7, 5}), counts);
  set_num_threads(1);  // nothing to share out
  runs(7);
  EXPECT_EQ(2U, counts.size());
  set_num_threads(3);
  set_parallel_for(nullptr);
  EXPECT_EQ(std::vector<int>(7, 1), runs(7));
  EXPECT_EQ(2U, counts.size());
}

TEST_F(ParallelFor, NumberOfThreads) {
  set_num_threads(0);
  const int by_default = get_num_threads();
  EXPECT_GE(by_default, 1);
  set_num_threads(3);
  EXPECT_EQ(3, get_num_threads());
  int elsewhere = 0;
  std::thread([&] { elsewhere = get_num_threads(); }).join();
  EXPECT_EQ(by_default, elsewhere);  // the choice is this thread's
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    std::mutex mutex;
    std::set<std::thread::id> ids;
    parallel_for(200, [&](int) {
      const std::lock_guard lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
    EXPECT_LE(ids.size(), static_cast<std::size_t>(threads));
  }
}

// OpenMP's threads do not survive a fork; a child that waited for them would never end.
TEST_F(ParallelFor, AfterFork) {
  set_num_threads(3);
  EXPECT_EQ(std::vector<int>(100, 1), runs(100));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(30);  // ends a child that hangs
    set_num_threads(3);
    _exit(runs(100) == std::vector<int>(100, 1) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << (WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  EXPECT_EQ(0, WEXITSTATUS(status));
  EXPECT_EQ(std::vector<int>(100, 1), runs(100));  // the parent goes on
}

}  // namespace
}  // namespace syncbn::base
