// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "layer/checks.h"
#include "layer/core.h"
#include "syncbn/error.h"

namespace syncbn::layer {

ForwardPart::ForwardPart(Core& layer, const ForwardTensors& tensors, Saved& result, bool track,
                         Workspace& work)
    : layer_(layer),
      tensors_(tensors),
      result_(result),
      track_(track),
      work_(work),
      geometry_(geometry_of(tensors.x)),
      kernels_(layer.device.kernels(tensors.x.dtype)) {}

void ForwardPart::check() const { check_forward(tensors_, layer_.num_features, layer_.options); }

// The message is the count, then one record a channel.
std::size_t ForwardPart::words() const {
  return static_cast<std::size_t>(1 + layer_.num_features * exact::sum_format(geometry_.dtype).words());
}

void ForwardPart::start(std::span<std::int64_t> message) {
  prepare(Saved::Statistics::group_batch);
  message[0] = geometry_.positions();
  kernels_.accumulate(call(), {message.data() + 1, exact::sum_format(geometry_.dtype)});
}

void ForwardPart::finish(std::span<const std::int64_t> message) {
  work_.saved.count = message[0];
  if (!has_batch()) return;
  kernels_.normalize(call(), {message.data() + 1, exact::sum_format(geometry_.dtype)});
  check_finite();
}

void ForwardPart::run_alone() {
  if (layer_.training) {
    prepare(Saved::Statistics::group_batch);
    if (!has_batch()) return;
    kernels_.normalize_alone(call());
    return check_finite();
  }
  Parameters& parameters = layer_.parameters;
  if (parameters.has_running_statistics()) {
    prepare(Saved::Statistics::running);
    kernels_.normalize_by(call(), parameters.running());
  } else {
    prepare(Saved::Statistics::local_batch);
    if (work_.saved.count != 0) kernels_.normalize_alone(call());
  }
}

void ForwardPart::commit() {
  if (track_) layer_.track(work_.saved);
  Saved& made = work_.saved;
  std::swap(result_.statistics, made.statistics);
  std::swap(result_.count, made.count);
  // One column after another: std::swap of the whole takes three moves of each, 60 instructions more.
  result_.mean.swap(made.mean);
  result_.var.swap(made.var);
  result_.invstd.swap(made.invstd);
  result_.scale.swap(made.scale);
  result_.var_unbiased.swap(made.var_unbiased);
}

// Zeros are the results of a call without elements.
void ForwardPart::prepare(Saved::Statistics statistics) {
  Saved& made = work_.saved;
  made.statistics = statistics;
  made.count = geometry_.positions();
  for (auto* column : {&made.mean, &made.var, &made.invstd, &made.scale, &made.var_unbiased}) {
    column->resize(static_cast<std::size_t>(layer_.num_features), layer_.device.memory);
  }
  work_.kernels.resize_columns(layer_.num_features);
  kernels_.clear(columns_of(made), layer_.num_features);
}

// Whether a training call has elements; without any there is nothing to normalize, and nothing to learn.
bool ForwardPart::has_batch() const {
  if (work_.saved.count != 1) return work_.saved.count != 0;
  throw InvalidArgument(
      fmt::format("x: 1 element per channel over the whole group '{}'; training needs at least 2 for the "
                  "unbiased variance",
                  layer_.joined->name()));
}

void ForwardPart::check_finite() const {
  if (layer_.options.nonfinite != Nonfinite::error) return;
  const auto found = kernels_.find_nonfinite(columns_of(work_.saved), layer_.num_features);
  if (!found) return;
  throw InvalidArgument(fmt::format(
      "x: channel {} has mean {} and variance {} over group '{}'; nonfinite = error allows finite "
      "statistics only",
      found->channel, found->mean, found->var, layer_.joined->name()));
}

kernels::ForwardCall ForwardPart::call() const {
  return {geometry_,
          {tensors_.x.data, tensors_.residual ? tensors_.residual->data : nullptr, tensors_.y.data},
          layer_.parameters.weight(),
          layer_.parameters.bias(),
          layer_.options.eps,
          layer_.options.activation == Activation::relu,
          work_.saved.count,
          columns_of(work_.saved),
          work_.kernels};
}

}  // namespace syncbn::layer
