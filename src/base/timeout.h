// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace syncbn::base {

/// Bounds of every timeout that a program or an environment variable may set. The upper bound, 31 years,
/// keeps deadlines far from the end of the clock's range.
inline constexpr std::chrono::milliseconds kShortestTimeout{1};
inline constexpr std::chrono::milliseconds kLongestTimeout = std::chrono::seconds(1'000'000'000);

/// Longest time of a wait.
struct TimeLimit {
  std::chrono::milliseconds time;
  std::string setting;  ///< The variable or argument that changes the time.

  /// "300 s (SYNCBN_TIMEOUT_S)"
  std::string text() const;
};

/// Checks the argument `timeout` of a public function, if there is one.
/// @throws InvalidArgument if it is outside [kShortestTimeout, kLongestTimeout]
void check_timeout(const std::optional<std::chrono::milliseconds>& timeout);

}  // namespace syncbn::base
