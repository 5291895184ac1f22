// SPDX-License-Identifier: Apache-2.0
#include "base/interrupt.h"

#include <atomic>

#include "base/long_wait.h"
#include "syncbn/group.h"

namespace syncbn {
namespace {

std::atomic<bool (*)()> interrupt_check = nullptr;
thread_local bool ignored = false;

}  // namespace

void set_interrupt_check(bool (*interrupted)()) { interrupt_check = interrupted; }

void base::ignore_interrupts() { ignored = true; }

void base::check_interrupt() {
  if (ignored) return;
  tell_long_wait();
  const auto interrupted = interrupt_check.load();
  if (interrupted != nullptr && interrupted()) throw Interrupted();
}

}  // namespace syncbn
