// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>

#include "base/engine_api.h"
#include "syncbn/communicator.h"

namespace syncbn::base {

/// Interval at which a thread that waits for peers calls check_interrupt().
inline constexpr auto kPollInterval = std::chrono::milliseconds(100);

/// The time at which a wait with this deadline must wake up next.
inline Deadline next_poll(Deadline deadline) {
  return std::min(deadline, std::chrono::steady_clock::now() + kPollInterval);
}

/// Every wait calls this function at each kPollInterval. It tells people of a long wait (long_wait.h), and
/// calls the function that set_interrupt_check() installed, if there is one.
/// @throws Interrupted if the function returns true
SYNCBN_ENGINE_API void check_interrupt();

/// In a thread of the library's own: from now on check_interrupt() does nothing on this thread.
void ignore_interrupts();

}  // namespace syncbn::base
