// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace syncbn::engines {

/// A counter in shared memory that starts at 0 in each operation, without anybody who resets it: several
/// processes may begin an operation at the same moment, and a second reset would undo counts. The word has
/// the operation's low 32 bits in its upper half and the count in its lower half. A count of another
/// operation reads as 0. All zero is valid.
///
/// Precondition: all users of one counter are in the same operation, or know that the earlier one is over.
class PartCounter {
 public:
  /// Adds 1 and returns the count before; returns `limit` and adds nothing if the count has reached it.
  std::uint32_t next(std::uint64_t operation, std::uint32_t limit) {
    std::uint64_t seen = word_.load();
    for (;;) {
      const std::uint32_t count = count_in(operation, seen);
      if (count >= limit) return limit;
      if (word_.compare_exchange_weak(seen, operation << 32 | (count + 1))) return count;
    }
  }
  std::uint32_t count(std::uint64_t operation) const { return count_in(operation, word_.load()); }

 private:
  static std::uint32_t count_in(std::uint64_t operation, std::uint64_t word) {
    return word >> 32 == (operation & 0xffffffff) ? static_cast<std::uint32_t>(word) : 0;
  }

  std::atomic<std::uint64_t> word_;
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
};

}  // namespace syncbn::engines
