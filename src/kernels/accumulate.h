#pragma once

#include <cstdint>

#include "exact/exact_sum.h"
#include "kernels/batch.h"

namespace syncbn::kernels {

/// A tensor to sum: its elements, or, under a ReLU mask, +0 where the mask's output was not positive (NaN
/// passes).
struct Operand {
  const void* values;
  const void* mask = nullptr;  ///< y of the forward call, or null.
};

/// Σa and Σa·b per channel over the whole batch: forward a = b = x, backward a = dy', b = x.
/// records: `geometry.channels` records of sum_format(geometry.dtype), zeroed; normalised on return.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, std::int64_t* records);

}  // namespace syncbn::kernels
