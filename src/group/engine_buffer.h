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

}  // namespace syncbn::group
