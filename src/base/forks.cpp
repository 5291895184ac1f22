// SPDX-License-Identifier: Apache-2.0
#include "base/forks.h"

#include <pthread.h>
#include <sys/stat.h>

#include <atomic>

namespace syncbn::base {
namespace {

std::atomic<int> forks{0};
std::atomic<bool> threads_lost{false};
std::atomic<bool> several_threads{false};  // in the forking process; valid between prepare and begin_child

// The link count of a directory is 2 plus the number of its subdirectories; /proc/self/task has a
// subdirectory per thread.
void prepare() {
  struct stat tasks {};
  several_threads = stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink > 3;
}

void begin_child() {
  ++forks;
  if (several_threads) threads_lost = true;
}

// Registered when the library is loaded, so that forks before the library's first use count too.
const int registration_error = pthread_atfork(&prepare, nullptr, &begin_child);

}  // namespace

int fork_count() { return forks; }

bool threads_lost_in_fork() { return threads_lost || registration_error != 0; }

}  // namespace syncbn::base
