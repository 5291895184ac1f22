// SPDX-License-Identifier: Apache-2.0
#include "contenders.h"

namespace bench {

Syncbn::Syncbn(const Tensors& tensors, const syncbn::SyncBatchNormOptions& options)
    : x_(tensors.view(tensors.x)),
      dy_(tensors.view(tensors.dy)),
      y_(tensors.view(tensors.y)),
      dx_(tensors.view(tensors.dx)),
      layer_(tensors.problem.shape().channels(), options) {
  forward();  // a backward needs one
}

void Syncbn::add_residual(const syncbn::ConstTensorView& residual, const syncbn::TensorView& d_residual) {
  residual_ = residual;
  d_residual_ = d_residual;
}

}  // namespace bench
