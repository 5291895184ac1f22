// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Wakes processes that sleep on one piece of shared memory (a futex). All zero is a valid bell.
///
/// A sleeper counts itself, then looks a last time whether it must sleep. A ringer first changes what
/// sleepers wait for, then rings. All operations are sequentially consistent, so either the sleeper sees the
/// change or the ringer sees the sleeper. A ring that is lost with a killed ringer costs its sleepers the
/// rest of their sleep.
class Bell {
 public:
  /// Wakes all sleepers. Costs a system call only if there are any.
  void ring() noexcept;

  /// Sleeps until the next ring, or until `until`; not at all if `ready` returns true. May wake up early.
  template <class Ready>
  void sleep(Ready ready, Deadline until) {
    sleepers_.fetch_add(1);
    const std::uint32_t heard = rings_.load();
    if (!ready()) wait_for_ring(heard, until);
    sleepers_.fetch_sub(1);
  }

 private:
  void wait_for_ring(std::uint32_t heard, Deadline until) noexcept;

  std::atomic<std::uint32_t> rings_;
  std::atomic<std::uint32_t> sleepers_;  // killed ones included
  static_assert(std::atomic<std::uint32_t>::is_always_lock_free && sizeof rings_ == 4);  // a futex word
};

}  // namespace syncbn::engines
