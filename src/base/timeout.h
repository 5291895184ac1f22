// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "syncbn/communicator.h"

namespace syncbn::base {

/// Bounds of every timeout that a program or an environment variable may set. The upper bound, 31 years,
/// keeps deadlines far from the end of the clock's range.
inline constexpr std::chrono::milliseconds kShortestTimeout{1};
inline constexpr std::chrono::milliseconds kLongestTimeout = std::chrono::seconds(1'000'000'000);

/// The time after which a wait ends with an error: never from kLongestTimeout on.
struct TimeLimit {
  std::chrono::milliseconds time;
  std::string setting;  ///< The variable, option or argument that changes the time.

  /// "300 s (SYNCBN_TIMEOUT_S)"
  std::string text() const;
  /// "until 14:02:11, in 290 of 300 s (SYNCBN_TIMEOUT_S)"
  std::string text_until(Deadline end) const;
};

/// Checks the argument `timeout` of a public function, if there is one.
/// @throws InvalidArgument if it is outside [kShortestTimeout, kLongestTimeout]
void check_timeout(const std::optional<std::chrono::milliseconds>& timeout);

}  // namespace syncbn::base
