// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace syncbn::launch {

// Exit codes of the launcher itself. All others are exit codes of workers, or 128 + the number of a signal.
inline constexpr int kSuccess = 0;
/// The port is in use, a log can't be written, …. Nothing is left running.
inline constexpr int kCannotStart = 1;
inline constexpr int kUsage = 2;
inline constexpr int kNotJoined = 124;  ///< --cluster_time_out is over; timeout(1) has the same code.
inline constexpr int kSignalBase = 128;

}  // namespace syncbn::launch
