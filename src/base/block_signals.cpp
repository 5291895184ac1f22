// SPDX-License-Identifier: Apache-2.0
#include "base/block_signals.h"

#include <pthread.h>

namespace syncbn::base {

BlockSignals::BlockSignals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}

BlockSignals::~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

}  // namespace syncbn::base
