// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/convert.h"
#include "kernels/levels.h"
#include "kernels/window.h"

/// The inner loop of the exact sums in channels-last: neighbouring channels, each in a lane of its own with a
/// window of its own.
namespace syncbn::kernels {

/// Number of channels that one call sums, on every instruction set: two cache lines of floats.
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

struct LaneLevels {
  alignas(64) double sum_start[kLanes], product_start[kLanes];
  int passes = 1;  ///< The most that a lane asks for.

  void set(std::size_t lane, const Levels& levels);
};
struct LaneLevelSums {
  alignas(64) std::int64_t sum[kSumLevels][kLanes], product[kProductLevels][kLanes];

  LevelSums of(std::size_t lane) const;
};

/// The loops over the elements of kLanes channels, for one storage type.
template <class Storage>
struct LaneLoops {
  /// Adds the sums of up to kMaxAdditions rows of kLanes elements to `sums`, but only in lanes whose nonzero
  /// elements all lie in the window. Returns whether that was so in all lanes. `seen` gets the ranges; b's
  /// are not set if both operands are the same.
  bool (*sum)(const Rows<Storage>&, const LaneWindows&, LaneSums& sums, LaneRanges& seen);
  /// Sets `sums` to the sums of one of the passes that together are exact. A term that is not finite counts
  /// as zero.
  void (*sum_levels)(const Rows<Storage>&, const LaneLevels&, int pass, LaneLevelSums& sums);
};
template <>
struct LaneLoops<double> {};  // sum_double_lanes.h
/// The loops of the instruction set in use, which has vector code.
const PerStorage<LaneLoops>& lane_tables();

}  // namespace syncbn::kernels
