#pragma once

#include <cstdint>

#include "exact/record.h"
#include "kernels/batch.h"

namespace syncbn::kernels {

/// A tensor to sum. Under a ReLU mask an element counts as +0 unless the mask's element is positive or NaN.
struct Operand {
  const void* values;
  const void* mask = nullptr;  ///< y of the forward call, or null.
};

/// Sets the records of the channels of a part to Σa and Σa·b, in either form. Forward: a = b = x. Backward: a
/// = dy', b = x. Runs on this thread alone.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, const Part& part,
                exact::Records records);
/// Use of the records: the wire needs digits, this rank's own finish takes either form.
enum class Use : std::uint8_t { wire, finish };
/// The same for all channels of the whole batch, in parallel.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, exact::Records records,
                Use use);

}  // namespace syncbn::kernels
