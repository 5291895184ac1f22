// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness.h"
#include "syncbn/sync_batch_norm.h"

namespace bench {

/// A layer with its forward and backward, as contenders. The tensors outlive it.
class Syncbn {
 public:
  explicit Syncbn(const Tensors& tensors, const syncbn::SyncBatchNormOptions& options = {});
  void forward() { layer_.forward({x_, y_, residual_}); }
  void backward() { layer_.backward({dy_, x_, y_, dx_, d_residual_}); }
  void add_residual(const syncbn::ConstTensorView& residual, const syncbn::TensorView& d_residual);
  syncbn::SyncBatchNorm& layer() { return layer_; }

 private:
  syncbn::ConstTensorView x_, dy_;
  syncbn::TensorView y_, dx_;
  std::optional<syncbn::ConstTensorView> residual_;
  std::optional<syncbn::TensorView> d_residual_;
  syncbn::SyncBatchNorm layer_;
};

/// The limit: a loop over cores that moves the bytes which must move, with stores past the cache.
Contender forward_copy(const Tensors& tensors);   ///< x to y
Contender backward_copy(const Tensors& tensors);  ///< dy and x to dx

/// The plain implementation, without care for rounding: sums in double, then a pass that applies them.
/// float32.
class PlainLoops {
 public:
  explicit PlainLoops(const Tensors& tensors);
  void forward();
  void backward();

 private:
  const Tensors& t_;
  std::vector<double> mean_, invstd_;
};

}  // namespace bench
