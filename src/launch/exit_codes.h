#pragma once

namespace syncbn::launch {

// Exit codes of the launcher's own; every other one is a worker's, or 128 + the number of a signal.
inline constexpr int kSuccess = 0;
inline constexpr int kCannotStart =
    1;  ///< The port is in use, a log can't be written, …: nothing is left running.
inline constexpr int kUsage = 2;
inline constexpr int kNotJoined = 124;  ///< --cluster_time_out, the code of timeout(1).
inline constexpr int kSignalBase = 128;

}  // namespace syncbn::launch
