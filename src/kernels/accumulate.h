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

/// Sets `records`, one of sum_format(geometry.dtype) for each channel of a part, to Σa and Σa·b: forward
/// a = b = x, backward a = dy', b = x. They are digits, normalised, or window sums (exact/window_sums.h). On
/// this thread alone.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, const Part& part,
                std::int64_t* records);
/// What holds the sums: digits can be sent, either is enough to finish from.
enum class Form { digits, either };
/// The same over the whole batch, in parallel.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, std::int64_t* records,
                Form form);

}  // namespace syncbn::kernels
