// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "syncbn/communicator.h"
#include "syncbn/error.h"

namespace syncbn::group {

/// The first `words` words of the engine's buffer.
/// @throws PeerError the buffer is shorter, which is possible with a custom engine
inline std::span<std::int64_t> engine_buffer(Communicator& communicator, std::size_t words) {
  const std::span<std::int64_t> buffer = communicator.buffer(words);
  if (buffer.size() >= words) return buffer.first(words);
  throw PeerError(
      fmt::format("the engine's buffer has {} words, but {} were requested", buffer.size(), words));
}

/// Checks the sum of a word that is 1 on every rank.
/// @throws PeerError the engine lost a rank or counted one twice: none of its sums can be trusted
inline void check_all_counted(std::int64_t ranks, int size) {
  if (ranks == size) return;
  throw PeerError(fmt::format(
      "the engine summed {} ranks, but the group has {}: the engine lost a rank or counted one twice", ranks,
      size));
}

}  // namespace syncbn::group
