// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/types.h"

/// The vector code of apply.
namespace syncbn::kernels {

/// The loops over the elements of some rows, for one storage type.
template <class Storage>
struct ApplyLoops {
  using T = const Compute<Storage>;
  void (*normalize)(const NormalizeRows<Storage>&, const ForwardColumns<T>&, Write);
  void (*differentiate)(const GradientRows<Storage>&, const BackwardColumns<T>&, Write);
};
/// The loops of the instruction set in use, which has vector code.
const PerStorage<ApplyLoops>& apply_tables();

}  // namespace syncbn::kernels
