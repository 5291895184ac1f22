#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/levels.h"
#include "kernels/window.h"

/// The inner loop of the exact sums in channels-first: Σa and Σa·b of some rows of one channel, inside a
/// window of exponents.
namespace syncbn::kernels {

/// Elements that the accumulators take in one step: rows of n cost each ⌈n / block_step()⌉ additions of the
/// kMaxAdditions that a block may have.
std::size_t block_step();

struct BlockSum {
  std::int64_t sum, high, low;  ///< Σa, and Σa·b = high + low, in the window's units.
  OperandRange a, b;            ///< b's is not set where it is a.
};

/// Exact if all nonzero elements lie in the window, which the caller reads off their ranges.
BlockSum sum_block(const Rows<float>& terms, const Window& window);
BlockSum sum_block(const Rows<float16>& terms, const Window& window);
BlockSum sum_block(const Rows<bfloat16>& terms, const Window& window);
/// One of the passes that together are exact; what is not finite counts as zero.
LevelSums sum_block_levels(const Rows<float>& terms, const Levels& levels, int pass);
LevelSums sum_block_levels(const Rows<float16>& terms, const Levels& levels, int pass);
LevelSums sum_block_levels(const Rows<bfloat16>& terms, const Levels& levels, int pass);

}  // namespace syncbn::kernels
