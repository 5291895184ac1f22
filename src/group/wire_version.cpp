// SPDX-License-Identifier: Apache-2.0
#include "group/wire_version.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/rank_list.h"
#include "group/engine_buffer.h"
#include "syncbn/error.h"

namespace syncbn::group {

namespace {

// Sums words that write(words) fills on each rank.
template <class Write>
std::span<const std::int64_t> sum(Communicator& connected, std::size_t words, Deadline deadline,
                                  const Write& write) {
  const std::span<std::int64_t> buffer = engine_buffer(connected, words);
  write(buffer);
  connected.start(words);
  connected.wait(deadline);
  return buffer;
}

}  // namespace

// All versions are equal if and only if size · Σv² = (Σv)², as for the fields of a header.
void check_wire_version(Communicator& connected, Deadline deadline, std::int64_t own) {
  const auto size = static_cast<std::size_t>(connected.size());
  const auto sums = sum(connected, 3, deadline, [own](std::span<std::int64_t> words) {
    words[0] = 1;
    words[1] = own;
    words[2] = own * own;
  });
  check_all_counted(sums[0], connected.size());
  if (sums[0] * sums[2] == sums[1] * sums[1]) return;
  const auto versions = sum(connected, size, deadline, [&](std::span<std::int64_t> words) {
    std::ranges::fill(words, 0);
    words[static_cast<std::size_t>(connected.rank())] = own;
  });
  std::map<std::int64_t, std::vector<int>> ranks;
  for (std::size_t rank = 0; rank < size; ++rank) ranks[versions[rank]].push_back(static_cast<int>(rank));
  std::string text;
  for (const auto& [version, of_version] : ranks)
    text += fmt::format("{}wire version {} on {}", text.empty() ? "" : ", ", version,
                        base::rank_list(of_version));
  throw MismatchError(fmt::format(
      "different versions of syncbn: {}; install the same version for all ranks; the group is broken", text));
}

}  // namespace syncbn::group
