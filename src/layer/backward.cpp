// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "layer/checks.h"
#include "layer/parts.h"

namespace syncbn::layer {

BackwardPart::BackwardPart(Core& layer, const BackwardTensors& tensors, const Saved& from,
                           BackwardSums* result, Workspace& work)
    : LayerPart(layer, tensors.x), tensors_(tensors), from_(from), result_(result), work_(work) {}

void BackwardPart::check_arguments() const {
  check_saved(from_, layer_.num_features, layer_.device.memory);
  check_backward(tensors_, layer_.num_features, layer_.options);
  check_count(from_, geometry_.positions());
}

// The message is one record a channel.
std::size_t BackwardPart::words() const { return record_words(); }

void BackwardPart::write_sums(std::span<std::int64_t> message) {
  prepare();
  kernels_->accumulate(call(), {message.data(), format()});
}

void BackwardPart::compute_results(std::span<const std::int64_t> message) {
  if (from_.count == 0) return;
  kernels_->differentiate(call(), {message.data(), format()});
}

void BackwardPart::compute_locally() {
  prepare();
  if (from_.count != 0) kernels_->differentiate_alone(call());
}

void BackwardPart::commit() {
  const bool of_group =
      layer_.is_collective(from_) && layer_.options.affine_gradients == AffineGradients::group;
  const BackwardSums& sums = work_.sums;
  // Without elements gradients are zero, whatever the statistics are.
  const bool empty = of_group ? from_.count == 0 : geometry_.positions() == 0;
  kernels_->affine_gradients(layer_.parameters.weight_grad(), layer_.parameters.bias_grad(),
                             of_group ? sums.a : sums.own_a, of_group ? sums.b : sums.own_b, from_.invstd,
                             empty);
  if (result_ != nullptr) std::swap(*result_, work_.sums);
}

void BackwardPart::prepare() {
  resize_columns(work_.sums, layer_.num_features, layer_.device.memory);
  work_.columns.resize_columns(layer_.num_features);
  if (geometry_.positions() == 0) kernels_->clear(work_.sums);  // nothing else may set the columns
}

kernels::BackwardCall BackwardPart::call() const {
  const bool relu = layer_.options.activation == Activation::relu;
  return {.geometry = geometry_,
          .tensors = {.dy = tensors_.dy.data,
                      .x = tensors_.x.data,
                      .y = relu ? data_or_null(tensors_.y) : nullptr,
                      .dx = data_or_null(tensors_.dx),
                      .d_residual = data_or_null(tensors_.d_residual)},
          .saved = from_,
          .sums = work_.sums,
          .work = work_.columns};
}

}  // namespace syncbn::layer
