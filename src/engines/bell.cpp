// SPDX-License-Identifier: Apache-2.0
#include "engines/bell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <ctime>

namespace syncbn::engines {
namespace {

// Not FUTEX_PRIVATE_FLAG: the sleepers are other processes.
void futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout) {
  syscall(SYS_futex, &word, operation, value, timeout, nullptr, 0);
}

}  // namespace

void Bell::ring() noexcept {
  rings_.fetch_add(1);
  if (sleepers_.load() != 0) futex(rings_, FUTEX_WAKE, INT_MAX, nullptr);
}

void Bell::wait_for_ring(std::uint32_t heard, Deadline until) noexcept {
  using std::chrono::nanoseconds;
  const auto left = std::max<nanoseconds>(until - std::chrono::steady_clock::now(), nanoseconds(0));
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  const timespec timeout{static_cast<std::time_t>(seconds.count()),
                         static_cast<long>((left - seconds).count())};
  futex(rings_, FUTEX_WAIT, heard, &timeout);
}

}  // namespace syncbn::engines
