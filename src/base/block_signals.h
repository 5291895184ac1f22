// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>

#include "base/engine_api.h"

namespace syncbn::base {

/// Blocks all signals in this thread for the lifetime of the object. Threads that are created meanwhile
/// inherit the blocked mask. So the program's signals are handled by the program's own threads, and a SIGPIPE
/// that a library thread causes stays pending instead of ending the process.
class SYNCBN_ENGINE_API BlockSignals {
 public:
  BlockSignals();
  ~BlockSignals();
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace syncbn::base
