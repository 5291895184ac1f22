// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "exact/record.h"
#include "kernels/window.h"

/// Exact sums of blocks whose elements spread over more octaves than a window has: accumulators on several
/// levels. One takes the multiple of its unit that is next to a term; with what that leaves, exactly, the one
/// below goes on (the extraction of Rump, Ogita and Oishi, Accurate floating-point summation, 2008).
namespace syncbn::kernels {

/// What one pass over the block has for Σa and for Σa·b; the next pass goes on below them.
inline constexpr int kSumLevels = 2, kProductLevels = 4;
/// From one level's unit down to the next one's. A rest is at most half a unit, and 2^l of them, l =
/// kLogAdditions, must stay below half a binade, 2^51 of the next units; 52 - l could just reach it.
inline constexpr int kLevelBits = 51 - kLogAdditions;
inline constexpr double kLevelStep = 1.0 / (std::int64_t{1} << kLevelBits);

/// Where the accumulators of the highest level start, as Window's do; level i starts at 2^-(i·kLevelBits) of
/// that.
struct Levels {
  double sum_start, product_start;
  int sum_ulp, product_ulp;  ///< log2 of the highest levels' units.
  int passes;                ///< Enough for the smallest elements.
};
/// For the finite elements of at most kMaxAdditions an accumulator. `largest`: the exponent of the dtype's
/// largest number, up to which an operand with specials may reach.
Levels make_levels(OperandRange a, OperandRange b, int largest);
template <class Storage>
Levels levels_of(OperandRange a, OperandRange b) {
  return make_levels(a, b, std::is_same_v<Storage, float16> ? 15 : 127);  // bfloat16 as float32
}

/// What the accumulators of one pass hold, in the units of their levels.
struct LevelSums {
  std::int64_t sum[kSumLevels], product[kProductLevels];
};
/// Adds `sums` to a record held as digits. Counts as kProductLevels additions toward kAddsBeforeCarry.
void add_levels(exact::Record record, const Levels& levels, int pass, const LevelSums& sums);

}  // namespace syncbn::kernels
