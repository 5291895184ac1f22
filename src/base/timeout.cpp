// SPDX-License-Identifier: Apache-2.0
#include "base/timeout.h"

#include <fmt/core.h>

#include <array>
#include <ctime>

#include "syncbn/error.h"

namespace syncbn::base {

std::string TimeLimit::text() const {
  return fmt::format("{} s ({})", std::chrono::duration<double>(time).count(), setting);
}

std::string TimeLimit::text_until(Deadline end) const {
  if (time >= kLongestTimeout) return fmt::format("without a limit ({})", setting);
  const auto left = std::chrono::round<std::chrono::seconds>(end - std::chrono::steady_clock::now());
  const std::time_t time_of_day =
      std::chrono::system_clock::to_time_t(std::chrono::system_clock::now() + left);
  std::tm local{};
  localtime_r(&time_of_day, &local);
  std::array<char, 16> clock{};
  std::strftime(clock.data(), clock.size(), "%H:%M:%S", &local);
  return fmt::format("until {}, in {} of {}", clock.data(), left.count(), text());
}

void check_timeout(const std::optional<std::chrono::milliseconds>& timeout) {
  if (!timeout || (*timeout >= kShortestTimeout && *timeout <= kLongestTimeout)) return;
  throw InvalidArgument(fmt::format("timeout: {} ms, expected {} to {} ms", timeout->count(),
                                    kShortestTimeout.count(), kLongestTimeout.count()));
}

}  // namespace syncbn::base
