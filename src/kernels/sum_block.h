#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/window.h"

/// The inner loop of the exact sums in channels-first: Σa and Σa·b of some rows of one channel, inside a
/// window of exponents.
namespace syncbn::kernels {

/// Elements that the accumulators take in one step: rows of n cost each ⌈n / block_step()⌉ additions of the
/// kMaxAdditions that a block may have.
std::size_t block_step();

struct BlockSum {
  std::int64_t sum, high, low;  ///< Σa, and Σa·b = high + low, in the window's units.
  /// Plain pass: largest |bits|, and smallest nonzero |bits| (2^32 - 1 where all are zero: min is kept minus
  /// one). Masked pass: max is the largest |bits| below the window, min is not set.
  std::uint32_t a_max, a_min_minus_one, b_max, b_min_minus_one;
};

/// Every element counts. Exact if all nonzero elements lie in the window, which the caller reads off max and
/// min. Storage: float, float16 or bfloat16.
template <class Storage>
BlockSum sum_block(const Rows<Storage>& terms, const Window& window);
/// Elements outside the window count as zero. Always exact.
template <class Storage>
BlockSum sum_block_masked(const Rows<Storage>& terms, const Window& window);

}  // namespace syncbn::kernels
