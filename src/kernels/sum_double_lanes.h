// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/levels.h"
#include "kernels/window.h"

/// The inner loop of the exact sums of doubles: Σa and Σa·b of each lane of a vector, on one pass of levels
/// (levels.h). A product is two doubles: the rounded product, and its exact rest.
namespace syncbn::kernels {

/// Lanes of the widest vector.
inline constexpr std::size_t kDoubleLanes = 8;
/// Additions of pairs that a lane may see. Each adds to a level of Σa·b twice.
inline constexpr std::size_t kMaxDoublePairs = kMaxAdditions / 2;

struct DoubleLaneSums {
  alignas(64) std::int64_t sum[kSumLevels][kDoubleLanes],
      product[kProductLevels][kDoubleLanes];  ///< In the units of each lane's levels.
  /// Ranges of |bits| as in OperandRange, of 64 bits. b's are not set if both operands are the same.
  alignas(64) std::uint64_t a_max[kDoubleLanes], a_min_minus_one[kDoubleLanes], b_max[kDoubleLanes],
      b_min_minus_one[kDoubleLanes];
};
struct DoubleLaneStarts {
  alignas(64) double sum[kDoubleLanes], product[kDoubleLanes];  ///< As of Levels.
};

struct DoubleLoops {
  std::size_t (*lanes)();
  /// Sums some rows: element i of a row belongs to lane i % lanes. `sums` is exact in lanes whose nonzero
  /// elements all lie in the lane's DoubleWindow.
  void (*sum)(const Rows<double>&, const DoubleLaneStarts&, DoubleLaneSums& sums);
};
/// The loops of the instruction set in use, which has vector code.
const DoubleLoops& double_loops();

}  // namespace syncbn::kernels
