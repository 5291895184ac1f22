// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "layer/checks.h"
#include "layer/core.h"

namespace syncbn::layer {

BackwardPart::BackwardPart(Core& layer, const Saved& from, const BackwardTensors& tensors,
                           BackwardSums* result, Workspace& work)
    : layer_(layer),
      from_(from),
      tensors_(tensors),
      result_(result),
      work_(work),
      geometry_(geometry_of(tensors.x)),
      kernels_(layer.device.kernels(tensors.x.dtype)) {}

void BackwardPart::check() const {
  check_saved(from_, layer_.num_features, layer_.device.memory);
  check_backward(tensors_, layer_.num_features, layer_.options);
  check_count(from_, geometry_.positions());
}

// The message is one record a channel.
std::size_t BackwardPart::words() const {
  return static_cast<std::size_t>(layer_.num_features * exact::sum_format(geometry_.dtype).words());
}

void BackwardPart::start(std::span<std::int64_t> message) {
  prepare();
  kernels_.accumulate(call(), exact::Records(message.data(), exact::sum_format(geometry_.dtype)));
}

void BackwardPart::finish(std::span<const std::int64_t> message) {
  if (from_.count == 0) return;
  kernels_.differentiate(call(), exact::ConstRecords(message.data(), exact::sum_format(geometry_.dtype)));
}

void BackwardPart::run_alone() {
  prepare();
  if (from_.count != 0) kernels_.differentiate_alone(call());
}

void BackwardPart::commit() {
  const bool of_group =
      layer_.is_collective(from_) && layer_.options.affine_gradients == AffineGradients::group;
  const kernels::SumsColumns sums = columns_of(work_.sums);
  // Without elements gradients are zero, whatever the statistics are.
  const bool empty = of_group ? from_.count == 0 : geometry_.positions() == 0;
  kernels_.affine_gradients(layer_.parameters.weight_grad(), layer_.parameters.bias_grad(),
                            of_group ? sums.a : sums.own_a, of_group ? sums.b : sums.own_b,
                            from_.invstd.data(), layer_.num_features, empty);
  if (result_ != nullptr) std::swap(*result_, work_.sums);
}

void BackwardPart::prepare() {
  for (auto* column : {&work_.sums.a, &work_.sums.b, &work_.sums.own_a, &work_.sums.own_b}) {
    column->resize(static_cast<std::size_t>(layer_.num_features), layer_.device.memory);
  }
  work_.kernels.resize_columns(layer_.num_features);
  kernels_.clear(columns_of(work_.sums), layer_.num_features);
}

kernels::BackwardCall BackwardPart::call() const {
  const bool relu = layer_.options.activation == Activation::relu;
  return {
      geometry_,
      {tensors_.dy.data, tensors_.x.data, relu && tensors_.y ? tensors_.y->data : nullptr,
       tensors_.dx ? tensors_.dx->data : nullptr, tensors_.d_residual ? tensors_.d_residual->data : nullptr},
      from_.statistics != Saved::Statistics::running,
      from_.count,
      columns_of(from_),
      columns_of(work_.sums),
      work_.kernels};
}

}  // namespace syncbn::layer
