#include "base/forks.h"

#include <pthread.h>
#include <sys/stat.h>

#include <atomic>

namespace syncbn::base {
namespace {

std::atomic<int> fork_count{0};
std::atomic<bool> threads_lost{false};
std::atomic<bool> several_threads{false};  // of the process that forks; between prepare and child only

// A directory has a link for each of its own and two more.
void prepare() {
  struct stat tasks {};
  several_threads = stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink > 3;
}

void begin_child() {
  ++fork_count;
  if (several_threads) threads_lost = true;
}

// When the library is loaded: a fork before its first use is one, too.
const int watching = pthread_atfork(&prepare, nullptr, &begin_child);

}  // namespace

int forks() { return fork_count; }

bool threads_lost_in_fork() { return threads_lost || watching != 0; }

}  // namespace syncbn::base
