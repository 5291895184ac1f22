// SPDX-License-Identifier: Apache-2.0
#include "base/timeout.h"

#include <fmt/format.h>

#include "syncbn/error.h"

namespace syncbn::base {

std::string TimeLimit::text() const {
  return fmt::format("{} s ({})", std::chrono::duration<double>(time).count(), setting);
}

void check_timeout(const std::optional<std::chrono::milliseconds>& timeout) {
  if (!timeout || (*timeout >= kShortestTimeout && *timeout <= kLongestTimeout)) return;
  throw InvalidArgument(fmt::format("timeout: {} ms, expected {} to {} ms", timeout->count(),
                                    kShortestTimeout.count(), kLongestTimeout.count()));
}

}  // namespace syncbn::base
