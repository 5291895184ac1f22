// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "base/parallel_for.h"
#include "exact/record.h"
#include "kernels/types.h"
#include "syncbn/threads.h"

/// How the CPU takes the steps of a call of which a rank needs no other rank's sums.
namespace syncbn::kernels {

/// Code paths with identical results. A heuristic picks one; tests can force either.
struct Paths {
  std::optional<bool>
      blocked;  ///< Take sums, coefficients and results together for a few channels at a time.
  std::optional<bool> streaming;  ///< Write results past the caches.
};
Paths& forced_paths();

/// Whole: each step for all channels, then the next. Blocked: all steps for some channels, while their
/// elements are in a core's cache: memory is read once.
struct Plan {
  enum class Way : std::uint8_t { whole, blocked } way;
  std::int64_t block_channels;  ///< Of blocked.
};
/// `tensors`: number of tensors that are read.
Plan make_plan(const Geometry& geometry, int tensors);

/// Words of the records of one task.
inline constexpr std::int64_t kLocalWords = 6144;  // 48 KB

/// Calls body(part, records) for each block of channels, in parallel. The body sets the records.
template <class Body>
void for_each_block(const Geometry& geometry, const Plan& plan, const Body& body) {
  const std::int64_t width = plan.block_channels;
  const std::int64_t blocks = (geometry.channels + width - 1) / width;
  // A thread takes neighbours one after the other: while one block is written, the next is prefetched into
  // the same core's cache.
  const std::int64_t tasks = std::min<std::int64_t>(blocks, 4 * get_num_threads());
  base::parallel_for(static_cast<int>(tasks), [&](int task) {
    for (std::int64_t block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block) {
      const std::int64_t channel = block * width;
      const std::int64_t channels = std::min(width, geometry.channels - channel);
      std::int64_t words[kLocalWords];
      body(Part{channel, channels, 0, geometry.positions()},
           exact::Records(words, exact::sum_format(geometry.dtype)));
    }
  });
}

/// Calls body(first channel, channels) for all channels, in parallel.
template <class Body>
void for_each_channels(std::int64_t channels, const Body& body) {
  constexpr std::int64_t kTogether = 64;  // some µs of work
  base::parallel_for(static_cast<int>((channels + kTogether - 1) / kTogether), [&](int task) {
    body(task * kTogether, std::min(kTogether, channels - task * kTogether));
  });
}

}  // namespace syncbn::kernels
