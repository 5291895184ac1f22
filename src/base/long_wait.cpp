// SPDX-License-Identifier: Apache-2.0
#include "base/long_wait.h"

#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <utility>

namespace syncbn::base {
namespace {

using Clock = Reminder::Clock;
using Seconds = std::chrono::duration<double>;

thread_local LongWait* current_wait = nullptr;
thread_local const WaitPhrase* innermost_phrase = nullptr;

}  // namespace

LongWait::LongWait(std::string waiter, std::string purpose, TimeLimit limit)
    : waiter_(std::move(waiter)),
      purpose_(std::move(purpose)),
      limit_(std::move(limit)),
      level_(log_level()),
      begin_(Clock::now()),
      deadline_(begin_ + limit_.time),
      exceptions_(std::uncaught_exceptions()),
      reminder_(begin_),
      outer_(std::exchange(current_wait, this)) {}

LongWait::~LongWait() {
  current_wait = outer_;
  if (level_ < LogLevel::info || std::uncaught_exceptions() > exceptions_) return;
  std::fputs(fmt::format("syncbn: {} waited {:.3g} s {}\n", waiter_, Seconds(Clock::now() - begin_).count(),
                         purpose_)
                 .c_str(),
             stderr);
}

std::string LongWait::text_at_deadline() const {
  return fmt::format("{} waited {} {}", waiter_, limit_.text(), purpose_);
}

std::optional<std::string> LongWait::due_line(Clock::time_point now) {
  if (level_ < LogLevel::warning || !reminder_.is_due(now)) return std::nullopt;
  const std::string phrases = innermost_phrase != nullptr ? innermost_phrase->with_outer() : " " + purpose_;
  return fmt::format("syncbn: {} waits{}, {}\n", waiter_, phrases, limit_.text_until(deadline_));
}

WaitPhrase::WaitPhrase(std::function<std::string()> text)
    : text_(std::move(text)), outer_(std::exchange(innermost_phrase, this)) {}

WaitPhrase::~WaitPhrase() { innermost_phrase = outer_; }

std::string WaitPhrase::with_outer() const {
  return fmt::format("{} {}", outer_ != nullptr ? outer_->with_outer() : "", text_());
}

void tell_long_wait() {
  if (current_wait == nullptr) return;
  if (const auto line = current_wait->due_line(Clock::now())) std::fputs(line->c_str(), stderr);
}

}  // namespace syncbn::base
