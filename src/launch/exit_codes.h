// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>

namespace syncbn::launch {

/// The command line is wrong. The message names the option, its value and what is allowed.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Exit codes of the launcher itself. All others are exit codes of workers, or 128 + the number of a signal.
inline constexpr int kSuccess = 0;
/// The port is in use, a log can't be written, …. Nothing is left running.
inline constexpr int kCannotStart = 1;
inline constexpr int kUsage = 2;
inline constexpr int kNotJoined = 124;  ///< --cluster_time_out is over; timeout(1) has the same code.
inline constexpr int kSignalBase = 128;

}  // namespace syncbn::launch
