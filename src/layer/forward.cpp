// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <utility>

#include "layer/checks.h"
#include "layer/parts.h"
#include "syncbn/error.h"

namespace syncbn::layer {

ForwardPart::ForwardPart(Core& layer, const ForwardTensors& tensors, Saved& result, Tracking tracking,
                         Workspace& work)
    : LayerPart(layer, tensors.x), tensors_(tensors), result_(result), tracking_(tracking), work_(work) {}

void ForwardPart::check_arguments() const { check_forward(tensors_, layer_.num_features, layer_.options); }

// The message is the count, then one record a channel.
std::size_t ForwardPart::words() const { return 1 + record_words(); }

void ForwardPart::write_sums(std::span<std::int64_t> message) {
  prepare(Saved::Statistics::group_batch);
  message[0] = geometry_.positions();
  kernels_->accumulate(call(), {message.data() + 1, format()});
}

void ForwardPart::compute_results(std::span<const std::int64_t> message) {
  work_.saved.count = message[0];
  if (work_.saved.count == 0) return;  // nothing to normalize, and nothing to learn
  require_two();
  kernels_->normalize(call(), {message.data() + 1, format()});
  check_finite();
}

void ForwardPart::compute_locally() { layer_.training ? train_alone() : evaluate(); }

void ForwardPart::train_alone() {
  prepare(Saved::Statistics::group_batch);
  if (work_.saved.count == 0) return;
  require_two();
  kernels_->normalize_alone(call());
  check_finite();
}

void ForwardPart::evaluate() {
  Parameters& parameters = layer_.parameters;
  if (parameters.has_running_statistics()) {
    prepare(Saved::Statistics::running);
    kernels_->normalize_by(call(), parameters.running());
  } else {
    prepare(Saved::Statistics::local_batch);
    if (work_.saved.count != 0) kernels_->normalize_alone(call());
  }
}

void ForwardPart::commit() {
  if (tracking_ == Tracking::move) layer_.track(work_.saved);
  Saved& made = work_.saved;
  std::swap(result_.statistics, made.statistics);
  std::swap(result_.count, made.count);
  // One column after another: std::swap of the whole takes three moves of each, 60 instructions more.
  for (const auto column : Saved::kColumns) (result_.*column).swap(made.*column);
}

void ForwardPart::prepare(Saved::Statistics statistics) {
  Saved& made = work_.saved;
  made.statistics = statistics;
  made.count = geometry_.positions();
  resize_columns(made, layer_.num_features, layer_.device.memory);
  work_.columns.resize_columns(layer_.num_features);
  if (made.count == 0) kernels_->clear(made);  // nothing else may set the columns
}

// The unbiased variance of one element does not exist.
void ForwardPart::require_two() const {
  if (work_.saved.count != 1) return;
  throw InvalidArgument(
      fmt::format("x: 1 element per channel over the whole group '{}'; training needs at least 2 for the "
                  "unbiased variance",
                  layer_.joined->name()));
}

void ForwardPart::check_finite() const {
  if (layer_.options.nonfinite != Nonfinite::error) return;
  const auto found = kernels_->find_nonfinite(work_.saved);
  if (!found) return;
  throw InvalidArgument(fmt::format(
      "x: channel {} has mean {} and variance {} over group '{}'; nonfinite = error allows finite "
      "statistics only",
      found->channel, found->mean, found->var, layer_.joined->name()));
}

kernels::ForwardCall ForwardPart::call() const {
  return {.geometry = geometry_,
          .tensors = {tensors_.x.data, data_or_null(tensors_.residual), tensors_.y.data},
          .weight = layer_.parameters.weight(),
          .bias = layer_.parameters.bias(),
          .eps = layer_.options.eps,
          .relu = layer_.options.activation == Activation::relu,
          .saved = work_.saved,
          .work = work_.columns};
}

}  // namespace syncbn::layer
