// SPDX-License-Identifier: Apache-2.0
#include "base/log_level.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include "syncbn/error.h"

namespace syncbn::base {

LogLevel log_level() {
  constexpr std::array<std::string_view, 4> kNames = {"off", "error", "warning", "info"};
  const char* value = std::getenv("SYNCBN_LOG");
  if (value == nullptr) return LogLevel::warning;
  const auto* const found = std::find(kNames.begin(), kNames.end(), value);
  if (found == kNames.end())
    throw GroupError(fmt::format("SYNCBN_LOG: '{}', expected off, error, warning or info", value));
  return LogLevel(found - kNames.begin());
}

}  // namespace syncbn::base
