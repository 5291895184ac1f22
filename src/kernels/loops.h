// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/accumulate.h"
#include "kernels/apply_rows.h"

namespace syncbn::kernels {

/// The loops over elements that a call on the CPU uses.
template <class Storage>
struct Loops {
  AccumulatePart accumulate;
  ApplyLoops<Storage> apply;
};
/// The vector code of the instruction set in use or, if it has none, the plain loops.
template <class Storage>
Loops<Storage> loops();

}  // namespace syncbn::kernels
