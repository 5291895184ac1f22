// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace syncbn::base {

/// When to tell people of a wait: ten seconds after its begin, and then after 20, 40, 80, … seconds more.
class Reminder {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Reminder(Clock::time_point begin) : next_(begin + kFirst) {}

  Clock::time_point next() const { return next_; }
  /// True once for each time that has come.
  bool is_due(Clock::time_point now) {
    if (now < next_) return false;
    interval_ *= 2;
    next_ = now + interval_;
    return true;
  }

 private:
  static constexpr std::chrono::seconds kFirst{10};
  std::chrono::seconds interval_ = kFirst;
  Clock::time_point next_;
};

}  // namespace syncbn::base
