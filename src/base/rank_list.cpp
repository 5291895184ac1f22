// SPDX-License-Identifier: Apache-2.0
#include "base/rank_list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstddef>

namespace syncbn::base {

std::string rank_list(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    text += fmt::format("{}{}", i == 0 ? "" : ", ", ranks[i]);
    if (last > i) text += fmt::format("-{}", ranks[last]);
    i = last;
  }
  return text;
}

std::string bracketed(const std::vector<int>& ranks) { return fmt::format("[{}]", fmt::join(ranks, ", ")); }

}  // namespace syncbn::base
