#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/window.h"

/// The inner loop of the exact sums in channels-last: neighbouring channels, each in a lane of its own with a
/// window of its own.
namespace syncbn::kernels {

/// Channels that one call sums, on every instruction set: two cache lines of floats.
inline constexpr std::size_t kLanes = 32;

struct LaneWindows {
  alignas(64) double sum_start[kLanes], high_start[kLanes], low_start[kLanes];
  alignas(64) std::uint32_t a_low[kLanes], a_width[kLanes], b_low[kLanes], b_width[kLanes];

  /// An empty window admits nothing.
  void clear(std::size_t lane);
  void set(std::size_t lane, const Window& window);
};
struct LaneSums {
  alignas(64) std::int64_t sum[kLanes], high[kLanes], low[kLanes];  ///< In the units of each lane's window.
};
/// As in BlockSum.
struct LaneRanges {
  alignas(64) std::uint32_t a_max[kLanes], a_min_minus_one[kLanes], b_max[kLanes], b_min_minus_one[kLanes];
};

/// Adds the sums of up to kMaxAdditions rows of kLanes elements to `sums`, of those lanes only where all
/// nonzero elements lie in the window. Whether that was so in all lanes; where not, `seen` tells the ranges.
template <class Storage>
bool sum_lanes(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen);
/// Sets `sums`, elements outside the windows counted as zero, and the maxima of `left` to the largest |bits|
/// below the windows.
template <class Storage>
void sum_lanes_masked(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums,
                      LaneRanges& left);

}  // namespace syncbn::kernels
