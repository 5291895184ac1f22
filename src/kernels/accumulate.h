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

/// Adds Σa and Σa·b of a part to `records`, one of sum_format(geometry.dtype) for each of its channels,
/// normalised on return: forward a = b = x, backward a = dy', b = x. On this thread alone.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, const Part& part,
                std::int64_t* records);
/// The same over the whole batch, in parallel.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, std::int64_t* records);

}  // namespace syncbn::kernels
