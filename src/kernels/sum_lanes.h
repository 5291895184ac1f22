#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/levels.h"
#include "kernels/window.h"

/// The inner loop of the exact sums in channels-last: neighbouring channels, each in a lane of its own with a
/// window of its own.
namespace syncbn::kernels {

/// Channels that one call sums, on every instruction set: two cache lines of floats.
inline constexpr std::size_t kLanes = 32;

struct LaneWindows {
  alignas(64) double sum_start[kLanes], high_start[kLanes], low_start[kLanes];
  alignas(64) std::uint32_t a_low[kLanes], a_high[kLanes], b_low[kLanes], b_high[kLanes];

  void set(std::size_t lane, const Window& window);
};
struct LaneSums {
  alignas(64) std::int64_t sum[kLanes], high[kLanes], low[kLanes];  ///< In the units of each lane's window.
};
struct LaneRanges {
  alignas(64) std::uint32_t a_max[kLanes], a_min_minus_one[kLanes], b_max[kLanes], b_min_minus_one[kLanes];

  OperandRange a(std::size_t lane) const { return {a_max[lane], a_min_minus_one[lane]}; }
  OperandRange b(std::size_t lane) const { return {b_max[lane], b_min_minus_one[lane]}; }
};

/// Adds the sums of up to kMaxAdditions rows of kLanes elements to `sums`, of those lanes only where all
/// nonzero elements lie in the window. Whether that was so in all lanes. `seen` tells the ranges; b's are not
/// set where it is a.
bool sum_lanes(const Rows<float>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen);
bool sum_lanes(const Rows<float16>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen);
bool sum_lanes(const Rows<bfloat16>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen);

struct LaneLevels {
  alignas(64) double sum_start[kLanes], product_start[kLanes];
  int passes = 1;  ///< The most that a lane asks for.

  void set(std::size_t lane, const Levels& levels);
};
struct LaneLevelSums {
  alignas(64) std::int64_t sum[kSumLevels][kLanes], product[kProductLevels][kLanes];

  LevelSums of(std::size_t lane) const;
};
/// Sets `sums` to those of one of the passes that together are exact; what is not finite counts as zero.
void sum_lanes_levels(const Rows<float>& terms, const LaneLevels& levels, int pass, LaneLevelSums& sums);
void sum_lanes_levels(const Rows<float16>& terms, const LaneLevels& levels, int pass, LaneLevelSums& sums);
void sum_lanes_levels(const Rows<bfloat16>& terms, const LaneLevels& levels, int pass, LaneLevelSums& sums);

}  // namespace syncbn::kernels
