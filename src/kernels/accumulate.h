// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "exact/record.h"
#include "kernels/types.h"

namespace syncbn::kernels {

/// Sets the records of the channels of a part to Σa and Σa·b, in either form. Forward: a = b = x. Backward: a
/// = dy', b = x. Runs on this thread alone.
using AccumulatePart = void (*)(const Operand& a, const Operand& b, const Geometry&, const Part&,
                                exact::Records);
/// By vector code of the instruction set in use; float64 by buckets.
template <class Storage>
void accumulate_part(const Operand& a, const Operand& b, const Geometry&, const Part&, exact::Records);

/// The same for all channels of the whole batch, in parallel.
void accumulate(AccumulatePart accumulate_part, const Operand& a, const Operand& b, const Geometry& geometry,
                exact::Records records, Use use);

}  // namespace syncbn::kernels
