// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <csignal>

#include "base/file_descriptor.h"

namespace syncbn::launch {

/// Signals that end a job.
inline constexpr std::array kStopSignals = {SIGINT, SIGTERM, SIGHUP};

/// Reads SIGCHLD and the stop signals from a descriptor. They are blocked in the calling thread and in the
/// threads that it makes later; nothing unblocks them.
class SignalReader {
 public:
  /// `stop_signal`: a stop signal that arrived earlier, or 0. @throws std::system_error
  explicit SignalReader(int stop_signal);

  int fd() const { return signals_.get(); }  ///< For poll().
  void read();                               ///< Takes all signals that have arrived.
  /// The first stop signal; 0 if there was none.
  int stop_signal() const { return stop_signal_; }

 private:
  base::Fd signals_;
  int stop_signal_;
};

}  // namespace syncbn::launch
