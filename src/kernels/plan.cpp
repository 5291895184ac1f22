// SPDX-License-Identifier: Apache-2.0
#include "kernels/plan.h"

#include <algorithm>
#include <numeric>

#include "kernels/sum_lanes.h"

namespace syncbn::kernels {
namespace {

// Channels-first: this many bytes stay in a core's second cache beside what is written. A channel that is
// larger by itself is read twice, as every channel is without blocks.
constexpr std::int64_t kBlockBytes = 256 << 10;
constexpr std::int64_t kLine = 64;

}  // namespace

Paths& forced_paths() {
  static Paths paths;
  return paths;
}

Plan make_plan(const Geometry& g, int tensors) {
  constexpr Plan kWhole{Plan::Way::whole, 0};
  if (g.elements() == 0) return kWhole;
  const auto size = static_cast<std::int64_t>(size_of(g.dtype));
  const std::int64_t positions = g.positions();
  const std::int64_t threads = std::clamp<std::int64_t>(g.elements() / kTaskElements, 1, get_num_threads());
  const std::int64_t most = kLocalWords / exact::sum_format(g.dtype).words();
  if (g.elements() <= kTaskElements && g.channels <= most)  // one task
    return forced_paths().blocked.value_or(true) ? Plan{Plan::Way::blocked, g.channels} : kWhole;
  std::int64_t width =
      std::max({kTaskElements / positions, kBlockBytes / (positions * size * tensors), std::int64_t{1}});
  // A few blocks a thread, so that no thread waits long for the last block of another.
  width =
      std::min(width, std::max((g.channels + 4 * threads - 1) / (4 * threads), kTaskElements / positions));
  if (g.layout == Layout::channels_last) {
    constexpr auto lanes = static_cast<std::int64_t>(kLanes);
    width = (width + lanes - 1) / lanes * lanes;
  } else {
    // Whole cache lines in each sample, so that no two blocks write to the same line.
    const std::int64_t whole = kLine / std::gcd(kLine, g.spatial * size);
    if (width > whole) width -= width % whole;
  }
  width = std::clamp<std::int64_t>(width, 1, std::min(most, g.channels));
  const std::int64_t blocks = (g.channels + width - 1) / width;
  const std::int64_t rounds = (blocks + threads - 1) / threads;
  const bool busy = 4 * blocks >= 3 * rounds * threads;
  // In channels-last a block's piece of a row is short: reading it from memory takes 1.3 times as long
  // (AVX-512).
  const bool whole = g.layout == Layout::channels_first || blocks == 1;
  return forced_paths().blocked.value_or(busy && whole) ? Plan{Plan::Way::blocked, width} : kWhole;
}

}  // namespace syncbn::kernels
