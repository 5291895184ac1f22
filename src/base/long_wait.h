// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "base/engine_api.h"
#include "base/log_level.h"
#include "base/reminder.h"
#include "base/timeout.h"
#include "syncbn/communicator.h"

/// Lines on standard error about long waits in a rendezvous: who waits, where, for whom, until when, and
/// which setting changes the limit.
namespace syncbn::base {

/// A wait of the calling thread for other ranks, for the lifetime of the object. check_interrupt() prints a
/// line about it when a Reminder is due. With SYNCBN_LOG=info another line says how long the wait took.
class LongWait {
 public:
  /// `waiter`: "rank 1 of 4". `purpose`: "to join the world". @throws GroupError as log_level()
  LongWait(std::string waiter, std::string purpose, TimeLimit limit);
  ~LongWait();
  LongWait(const LongWait&) = delete;
  LongWait& operator=(const LongWait&) = delete;

  Deadline deadline() const { return deadline_; }
  /// "rank 1 of 4 waited 300 s (SYNCBN_TIMEOUT_S) to join the world", for the error at the deadline.
  std::string text_at_deadline() const;
  /// The line if one is due, with its line end.
  std::optional<std::string> due_line(Reminder::Clock::time_point now);

 private:
  const std::string waiter_;
  const std::string purpose_;
  const TimeLimit limit_;
  const LogLevel level_;
  const Reminder::Clock::time_point begin_;
  const Deadline deadline_;
  const int exceptions_;
  Reminder reminder_;
  LongWait* const outer_;
};

/// Part of the line about the thread's LongWait, for the lifetime of the object: "at 10.0.0.1:29501", "for
/// ranks 2-3 to call init()". The line has the phrases in the order of their construction. `text` is called
/// only for a line that is printed, in the thread that waits.
class SYNCBN_ENGINE_API WaitPhrase {
 public:
  explicit WaitPhrase(std::function<std::string()> text);
  ~WaitPhrase();
  WaitPhrase(const WaitPhrase&) = delete;
  WaitPhrase& operator=(const WaitPhrase&) = delete;

 private:
  friend class LongWait;
  std::string with_outer() const;

  const std::function<std::string()> text_;
  const WaitPhrase* const outer_;
};

/// Prints the line about the thread's LongWait if one is due. check_interrupt() calls it.
SYNCBN_ENGINE_API void tell_long_wait();

}  // namespace syncbn::base
