// SPDX-License-Identifier: Apache-2.0
#include "environment/slurm_lists.h"

#include <algorithm>

#include "environment/parse.h"

namespace syncbn::environment {
namespace {

std::optional<int> positive(std::string_view text) {
  const auto number = parse<int>(text);
  return number && *number >= 1 ? number : std::nullopt;
}

}  // namespace

// A name may have several brackets, and text after them: "rack[0-1]node[2,5]-eth".
std::optional<std::string> first_node(std::string_view nodes) {
  std::string name;
  while (!nodes.empty() && nodes.front() != ',') {
    if (nodes.front() == '[') {
      const std::size_t first_end = nodes.find_first_of(",-]");
      const std::size_t end = nodes.find(']');
      if (end == std::string_view::npos || first_end == 1) return std::nullopt;
      name += nodes.substr(1, first_end - 1);
      nodes.remove_prefix(end + 1);
    } else {
      if (nodes.front() == ']') return std::nullopt;
      name += nodes.front();
      nodes.remove_prefix(1);
    }
  }
  return name.empty() ? std::nullopt : std::optional(name);
}

std::optional<int> tasks_of_node(std::string_view tasks, int node) {
  int first = 0;  // number of the first node of the entry
  while (!tasks.empty()) {
    const std::size_t end = std::min(tasks.find(','), tasks.size());
    const std::string_view entry = tasks.substr(0, end);
    tasks.remove_prefix(std::min(end + 1, tasks.size()));
    const std::size_t open = std::min(entry.find("(x"), entry.size());
    const bool repeats = open < entry.size();
    if (repeats && entry.back() != ')') return std::nullopt;
    const auto count = positive(entry.substr(0, open));
    const auto times =
        repeats ? positive(entry.substr(open + 2, entry.size() - open - 3)) : std::optional<int>(1);
    if (!count || !times) return std::nullopt;
    if (node - first < *times) return count;
    first += *times;
  }
  return std::nullopt;
}

}  // namespace syncbn::environment
