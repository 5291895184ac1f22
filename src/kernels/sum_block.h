// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/convert.h"
#include "kernels/levels.h"
#include "kernels/window.h"

/// The inner loop of the exact sums in channels-first: Σa and Σa·b of some rows of one channel, inside a
/// window of exponents.
namespace syncbn::kernels {

struct BlockSum {
  std::int64_t sum, high, low;  ///< Σa, and Σa·b = high + low, in the window's units.
  bool fits;                    ///< Whether all nonzero elements lie in the window. If not:
  OperandRange a, b;            ///< The operands' ranges.
};

/// The loops over the elements of a block, for one storage type.
template <class Storage>
struct BlockLoops {
  /// Elements that the accumulators take in one step. A row of n costs ⌈n / step⌉ of the kMaxAdditions of a
  /// block.
  std::size_t (*step)();
  /// Exact if all nonzero elements lie in the window.
  BlockSum (*sum)(const Rows<Storage>&, const Window&);
  /// One of the passes that together are exact. A term that is not finite counts as zero.
  LevelSums (*sum_levels)(const Rows<Storage>&, const Levels&, int pass);
};
template <>
struct BlockLoops<double> {};  // sum_double_lanes.h
/// The loops of the instruction set in use, which has vector code.
const PerStorage<BlockLoops>& block_tables();

}  // namespace syncbn::kernels
