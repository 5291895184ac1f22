// SPDX-License-Identifier: Apache-2.0
#include "layer/double_backward.h"

#include <fmt/format.h>

#include "layer/checks.h"
#include "syncbn/error.h"

namespace syncbn::layer {
namespace {

template <class View>
auto* data_or_null(const std::optional<View>& view) {
  return view ? view->data : nullptr;
}

}  // namespace

DoubleBackwardPart::DoubleBackwardPart(Core& layer, const Saved& from, const BackwardSums& sums,
                                       const DoubleBackwardTensors& tensors)
    : layer_(layer),
      from_(from),
      sums_(sums),
      tensors_(tensors),
      geometry_(geometry_of(tensors.x)),
      kernels_(layer.device.kernels(tensors.x.dtype)) {}

void DoubleBackwardPart::check() const {
  if (layer_.options.affine_gradients == AffineGradients::group)
    throw InvalidArgument("double_backward: affine_gradients = group, expected local");
  check_saved(from_, layer_.num_features, layer_.device.memory);
  check_double_backward(tensors_, layer_.num_features, layer_.options);
  check_count(from_, geometry_.positions());
  for (const auto* column : {&sums_.a, &sums_.b, &sums_.own_a, &sums_.own_b})
    check_column("sums", *column, layer_.num_features, layer_.device.memory);
}

std::size_t DoubleBackwardPart::words() const { return kernels_.double_backward_words(layer_.num_features); }

void DoubleBackwardPart::start(std::span<std::int64_t> message) {
  own_q_.resize(static_cast<std::size_t>(layer_.num_features), layer_.device.memory);
  kernels_.accumulate(call(), message);
}

void DoubleBackwardPart::finish(std::span<const std::int64_t> message) {
  kernels_.double_differentiate(call(), message);
}

void DoubleBackwardPart::run_alone() {
  std::vector<std::int64_t> message(words());
  start(message);
  finish(message);
}

kernels::DoubleBackwardCall DoubleBackwardPart::call() {
  const auto values = [&](const void* data) {
    return kernels::Values{const_cast<void*>(data), layer_.options.dtype};  // NOLINT: only read
  };
  const bool relu = layer_.options.activation == Activation::relu;
  return {geometry_,
          tensors_.dy.data,
          tensors_.x.data,
          relu ? data_or_null(tensors_.y) : nullptr,
          data_or_null(tensors_.ddx),
          data_or_null(tensors_.dd_residual),
          data_or_null(tensors_.d_dy),
          data_or_null(tensors_.d_x),
          values(tensors_.dd_weight),
          values(tensors_.dd_bias),
          values(tensors_.d_weight),
          from_.statistics != Saved::Statistics::running,
          from_.count,
          columns_of(from_),
          columns_of(sums_),
          own_q_.data()};
}

}  // namespace syncbn::layer
