// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "syncbn/sync_batch_norm.h"

namespace syncbn::layer {

/// Elements of one parameter, buffer or gradient, in memory of the layer's device that belongs to the layer
/// or to the caller.
class StateValues {
 public:
  /// No dtype: int64.
  StateValues(const kernels::DeviceEntry& device, std::optional<DType> dtype, std::int64_t size);

  std::optional<DType> dtype() const { return dtype_; }
  std::size_t size() const { return size_; }
  void* data() { return bound_ != nullptr ? bound_ : own_.data(); }
  /// Keeps the elements in `memory` from now on; null: in the layer's own memory again. Copies nothing.
  void bind(void* memory) { bound_ = memory; }
  void fill(int value);

 private:
  const kernels::DeviceEntry& device_;
  std::optional<DType> dtype_;
  std::size_t size_;
  DeviceBuffer own_;
  void* bound_ = nullptr;
};

/// Parameters, buffers and gradients of a layer. Those that the options leave out are absent.
class Parameters {
 public:
  Parameters(const kernels::DeviceEntry& device, std::int64_t num_features,
             const SyncBatchNormOptions& options);

  kernels::Values weight() { return view(kWeight); }
  kernels::Values bias() { return view(kBias); }
  kernels::Values weight_grad() { return view(kWeightGrad); }
  kernels::Values bias_grad() { return view(kBiasGrad); }
  bool has_running_statistics() const { return values_[kRunningMean].has_value(); }
  /// Only if they exist.
  kernels::RunningStatistics running() {
    return {view(kRunningMean), view(kRunningVar), static_cast<std::int64_t*>(values_[kBatches]->data())};
  }

  void reset_running_stats() { reset(kRunningMean, kWeightGrad); }
  void reset() { reset(kWeight, kWeightGrad); }
  std::vector<StateEntry> state() { return entries(kWeight, kWeightGrad); }
  std::vector<StateEntry> gradients() { return entries(kWeightGrad, kEntries); }
  void bind(std::string_view name, void* memory);  ///< As FrameworkHooks::bind.

 private:
  enum Entry { kWeight, kBias, kRunningMean, kRunningVar, kBatches, kWeightGrad, kBiasGrad, kEntries };

  kernels::Values view(Entry entry) {
    std::optional<StateValues>& values = values_[entry];
    return values ? kernels::Values{values->data(), *values->dtype()} : kernels::Values{};
  }
  void reset(std::size_t first, std::size_t end);
  std::vector<StateEntry> entries(std::size_t first, std::size_t end);

  Device device_;
  std::array<std::optional<StateValues>, kEntries> values_;
};

}  // namespace syncbn::layer
