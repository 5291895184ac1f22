// SPDX-License-Identifier: Apache-2.0
#include "layer/parameters.h"

#include <fmt/format.h>

#include "syncbn/error.h"

namespace syncbn::layer {

ChannelValues::ChannelValues(DType dtype, std::int64_t channels, double value)
    : dtype_(dtype), size_(static_cast<std::size_t>(channels)), own_(size_ * size_of(dtype)) {
  fill(value);
}

void ChannelValues::fill(double value) {
  kernels::kernels_for(dtype_).fill(view(), static_cast<std::int64_t>(size_), value);
}

StateEntry ChannelValues::entry(std::string name) { return {std::move(name), data(), dtype_, size_}; }

BatchCounter& BatchCounter::operator=(std::int64_t batches) {
  exists_ = true;
  *data() = batches;
  return *this;
}

Parameters::Parameters(std::int64_t num_features, const SyncBatchNormOptions& options)
    : dtype(options.dtype) {
  if (options.affine) {
    weight.emplace(options.dtype, num_features, 1.0);
    weight_grad.emplace(options.dtype, num_features, 0.0);
  }
  if (options.affine && options.bias) {
    bias.emplace(options.dtype, num_features, 0.0);
    bias_grad.emplace(options.dtype, num_features, 0.0);
  }
  if (options.track_running_stats) {
    running_mean.emplace(options.dtype, num_features, 0.0);
    running_var.emplace(options.dtype, num_features, 1.0);
    num_batches_tracked = 0;
  }
}

void Parameters::reset_running_stats() {
  if (!running_mean) return;
  running_mean->fill(0.0);
  running_var->fill(1.0);
  num_batches_tracked = 0;
}

void Parameters::reset() {
  reset_running_stats();
  if (weight) weight->fill(1.0);
  if (bias) bias->fill(0.0);
}

std::vector<StateEntry> Parameters::state() {
  std::vector<StateEntry> entries;
  if (weight) entries.push_back(weight->entry("weight"));
  if (bias) entries.push_back(bias->entry("bias"));
  if (running_mean) {
    entries.push_back(running_mean->entry("running_mean"));
    entries.push_back(running_var->entry("running_var"));
    entries.push_back(num_batches_tracked.entry("num_batches_tracked"));
  }
  return entries;
}

void Parameters::bind(std::string_view name, void* memory) {
  const auto check = [&](std::size_t alignment) {
    if (reinterpret_cast<std::uintptr_t>(memory) % alignment == 0) return;
    throw InvalidArgument(
        fmt::format("{}: memory at {}, expected an address aligned to {} bytes", name, memory, alignment));
  };
  const std::pair<std::string_view, std::optional<ChannelValues>*> known[] = {{"weight", &weight},
                                                                              {"bias", &bias},
                                                                              {"running_mean", &running_mean},
                                                                              {"running_var", &running_var},
                                                                              {"weight_grad", &weight_grad},
                                                                              {"bias_grad", &bias_grad}};
  for (const auto& [known_name, values] : known) {
    if (known_name != name || !*values) continue;
    check(size_of(dtype));
    return (*values)->bind(memory);
  }
  if (name != "num_batches_tracked" || !num_batches_tracked) {
    throw InvalidArgument(fmt::format("entry: '{}' is none of this layer's parameters and buffers", name));
  }
  check(sizeof(std::int64_t));
  num_batches_tracked.bind(memory);
}

}  // namespace syncbn::layer
