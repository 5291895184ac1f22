// SPDX-License-Identifier: Apache-2.0
#include "layer/parameters.h"

#include <fmt/core.h>

#include "syncbn/error.h"

namespace syncbn::layer {
namespace {

// In the order of Entry.
constexpr struct {
  const char* name;
  int initial;
} kInfo[] = {
    {"weight", 1},      {"bias", 0},     {"running_mean", 0}, {"running_var", 1}, {"num_batches_tracked", 0},
    {"weight_grad", 0}, {"bias_grad", 0}};

std::size_t element_size(std::optional<DType> dtype) {
  return dtype ? size_of(*dtype) : sizeof(std::int64_t);
}

}  // namespace

StateValues::StateValues(const kernels::DeviceEntry& device, std::optional<DType> dtype, std::int64_t size)
    : device_(device), dtype_(dtype), size_(static_cast<std::size_t>(size)) {
  own_.resize(size_ * element_size(dtype), device.memory);
}

void StateValues::fill(int value) {
  if (dtype_) {
    device_.kernels(*dtype_).fill({data(), *dtype_}, static_cast<std::int64_t>(size_), value);
  } else {
    const std::int64_t wide = value;
    device_.memory.copy(data(), &wide, sizeof wide);
  }
}

Parameters::Parameters(const kernels::DeviceEntry& device, std::int64_t num_features,
                       const SyncBatchNormOptions& options)
    : device_(options.device) {
  const bool bias = options.affine && options.bias, track = options.track_running_stats;
  const bool exists[] = {options.affine, bias, track, track, track, options.affine, bias};
  for (std::size_t i = 0; i < kEntries; ++i) {
    if (!exists[i]) continue;
    if (i == kBatches) {
      values_[i].emplace(device, std::nullopt, 1);
    } else {
      values_[i].emplace(device, options.dtype, num_features);
    }
  }
  reset(0, kEntries);
}

void Parameters::reset(std::size_t first, std::size_t end) {
  for (std::size_t i = first; i < end; ++i) {
    if (values_[i]) values_[i]->fill(kInfo[i].initial);
  }
}

std::vector<StateEntry> Parameters::entries(std::size_t first, std::size_t end) {
  std::vector<StateEntry> result;
  for (std::size_t i = first; i < end; ++i) {
    if (!values_[i]) continue;
    result.push_back({kInfo[i].name, values_[i]->data(), values_[i]->dtype(), values_[i]->size(), device_});
  }
  return result;
}

void Parameters::bind(std::string_view name, void* memory) {
  for (std::size_t i = 0; i < kEntries; ++i) {
    if (kInfo[i].name != name || !values_[i]) continue;
    const std::size_t alignment = element_size(values_[i]->dtype());
    if (reinterpret_cast<std::uintptr_t>(memory) % alignment != 0) {
      throw InvalidArgument(
          fmt::format("{}: memory at {}, expected an address aligned to {} bytes", name, memory, alignment));
    }
    return values_[i]->bind(memory);
  }
  throw InvalidArgument(fmt::format("entry: '{}' is none of this layer's parameters and buffers", name));
}

}  // namespace syncbn::layer
