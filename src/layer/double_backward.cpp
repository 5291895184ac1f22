// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <algorithm>

#include "layer/checks.h"
#include "layer/parts.h"
#include "syncbn/error.h"

namespace syncbn::layer {

DoubleBackwardPart::DoubleBackwardPart(Core& layer, const Saved& from, const BackwardSums& sums,
                                       const DoubleBackwardTensors& tensors)
    : LayerPart(layer, tensors.x), from_(from), sums_(sums), tensors_(tensors) {}

void DoubleBackwardPart::check_arguments() const {
  if (layer_.options.affine_gradients == AffineGradients::group)
    throw InvalidArgument("affine_gradients: group, expected local");
  check_saved(from_, layer_.num_features, layer_.device.memory);
  check_double_backward(tensors_, layer_.num_features, layer_.options);
  check_count(from_, geometry_.positions());
  check_saved_sums(sums_, layer_.num_features, layer_.device.memory);
}

std::size_t DoubleBackwardPart::words() const { return kernels_->double_backward_words(layer_.num_features); }

void DoubleBackwardPart::write_sums(std::span<std::int64_t> message) {
  own_q_.resize(static_cast<std::size_t>(layer_.num_features), layer_.device.memory);
  std::ranges::fill(message, 0);
  kernels_->accumulate(call(), message);
}

void DoubleBackwardPart::compute_results(std::span<const std::int64_t> message) {
  kernels_->double_differentiate(call(), message);
}

void DoubleBackwardPart::compute_locally() {
  std::vector<std::int64_t> message(words());
  write_sums(message);
  compute_results(message);
}

kernels::DoubleBackwardCall DoubleBackwardPart::call() {
  const auto values = [&](const void* data) {
    return kernels::Values{const_cast<void*>(data), layer_.options.dtype};  // NOLINT: only read
  };
  const bool relu = layer_.options.activation == Activation::relu;
  return {.geometry = geometry_,
          .dy = tensors_.dy.data,
          .x = tensors_.x.data,
          .y = relu ? data_or_null(tensors_.y) : nullptr,
          .ddx = data_or_null(tensors_.ddx),
          .dd_residual = data_or_null(tensors_.dd_residual),
          .d_dy = data_or_null(tensors_.d_dy),
          .d_x = data_or_null(tensors_.d_x),
          .dd_weight = values(tensors_.dd_weight),
          .dd_bias = values(tensors_.dd_bias),
          .d_weight = values(tensors_.d_weight),
          .saved = from_,
          .sums = sums_,
          .own_q = own_q_};
}

}  // namespace syncbn::layer
