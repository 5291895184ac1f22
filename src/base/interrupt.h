#pragma once

#include <algorithm>
#include <chrono>

#include "syncbn/communicator.h"

namespace syncbn::base {

/// How long a thread may wait for peers without a look.
inline constexpr auto kLook = std::chrono::milliseconds(100);
/// The end of a wait's next part.
inline Deadline next_look(Deadline deadline) {
  return std::min(deadline, std::chrono::steady_clock::now() + kLook);
}
/// Asks the check of set_interrupt_check, if there is one. @throws Interrupted
void check_interrupt();

}  // namespace syncbn::base
