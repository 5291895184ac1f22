#include "layer/blocks.h"

#include <algorithm>
#include <numeric>

#include "kernels/paths.h"
#include "kernels/sum_lanes.h"
#include "syncbn/threads.h"

namespace syncbn::layer {
namespace {

// Enough work for a thread to be woken.
constexpr std::int64_t kBlockElements = 16384;
// Channels-first: so many bytes stay in a core's second cache beside what is written. A channel that is
// larger by itself is read twice, which the whole batch would be otherwise.
constexpr std::int64_t kBlockBytes = 256 << 10;
constexpr std::int64_t kLine = 64;

}  // namespace

std::int64_t channels_together(const kernels::Geometry& g, int tensors) {
  if (g.elements() == 0) return 0;
  const auto size = static_cast<std::int64_t>(size_of(g.dtype));
  const std::int64_t positions = g.positions();
  const std::int64_t threads = std::clamp<std::int64_t>(g.elements() / kBlockElements, 1, get_num_threads());
  const std::int64_t most = kBlockWords / exact::sum_format(g.dtype).words();
  std::int64_t together =
      std::max({kBlockElements / positions, kBlockBytes / (positions * size * tensors), std::int64_t{1}});
  // A few blocks a thread, so that none waits long for another's last one.
  together = std::min(together,
                      std::max((g.channels + 4 * threads - 1) / (4 * threads), kBlockElements / positions));
  if (g.layout == Layout::channels_last) {
    constexpr auto lanes = static_cast<std::int64_t>(kernels::kLanes);
    together = (together + lanes - 1) / lanes * lanes;
  } else {
    // Whole cache lines in each sample, of which no other block writes a part.
    const std::int64_t whole = kLine / std::gcd(kLine, g.spatial * size);
    if (together > whole) together -= together % whole;
  }
  together = std::clamp<std::int64_t>(together, 1, std::min(most, g.channels));
  const std::int64_t blocks = (g.channels + together - 1) / together;
  const std::int64_t rounds = (blocks + threads - 1) / threads;
  const bool busy = 4 * blocks >= 3 * rounds * threads;
  // In channels-last a block's piece of a row is short, which memory pays for: 1.3 times the time from memory
  // (AVX-512).
  const bool whole = g.layout == Layout::channels_first || blocks == 1;
  return kernels::forced_paths().fused.value_or(busy && whole) ? together : 0;
}

}  // namespace syncbn::layer
