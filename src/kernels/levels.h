// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "exact/record.h"
#include "kernels/window.h"

/// Exact sums of blocks whose elements spread over more octaves than a window has, by accumulators on several
/// levels. A level takes from a term the nearest multiple of its unit. The rest is exact, and the level below
/// takes its part of the rest (the extraction of Rump, Ogita and Oishi, Accurate floating-point summation,
/// 2008).
namespace syncbn::kernels {

/// Number of levels of one pass, for Σa and for Σa·b. The next pass continues below them.
inline constexpr int kSumLevels = 2, kProductLevels = 4;
/// Octaves from a level's unit down to the next level's unit. A rest is at most half a unit. The sum of 2^l
/// rests, l = kLogAdditions, must stay below half a binade, which is 2^51 of the next level's units. With
/// 52 - l octaves the sum could just reach it.
inline constexpr int kLevelBits = 51 - kLogAdditions;
inline constexpr double kLevelStep = 1.0 / (std::int64_t{1} << kLevelBits);

/// The levels of one block. The accumulators of the highest level start at sum_start and product_start, as in
/// a Window. Level i starts at 2^-(i·kLevelBits) of that.
struct Levels {
  double sum_start, product_start;
  int sum_ulp, product_ulp;  ///< log2 of the highest levels' units.
  int passes;                ///< Enough for the smallest elements.
};
/// The levels for elements up to these exponents.
Levels levels_at(int max_exponent_a, int max_exponent_b, int passes);
/// The levels for a block's finite elements, at most kMaxAdditions an accumulator. `largest` is the exponent
/// of the dtype's largest number: if an operand has special elements, its finite ones may reach that far.
Levels make_levels(OperandRange a, OperandRange b, int largest);
template <class Storage>
Levels levels_of(OperandRange a, OperandRange b) {
  return make_levels(a, b, std::is_same_v<Storage, float16> ? 15 : 127);  // bfloat16 as float32
}

/// Sums that the accumulators of one pass hold, in the units of their levels.
struct LevelSums {
  std::int64_t sum[kSumLevels], product[kProductLevels];
  bool operator==(const LevelSums&) const = default;
};
/// Adds `sums` to a record held as digits. Counts as kProductLevels additions toward kAddsBeforeCarry.
void add_levels(exact::Record record, const Levels& levels, int pass, const LevelSums& sums);

}  // namespace syncbn::kernels
