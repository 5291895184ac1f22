// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "syncbn/dtype.h"
#include "syncbn/sync_batch_norm.h"

namespace syncbn::layer {

/// One value per channel in the layer's dtype, in the layer's own memory or in the caller's.
class ChannelValues {
 public:
  ChannelValues(DType dtype, std::int64_t channels, double value);

  /// Keeps the values in `memory` from now on; null: in the layer's own memory again. Copies nothing.
  void bind(void* memory) { bound_ = static_cast<std::byte*>(memory); }

  kernels::Values view() { return {data(), dtype_}; }
  void fill(double value);
  StateEntry entry(std::string name);

 private:
  std::byte* data() { return bound_ != nullptr ? bound_ : own_.data(); }

  DType dtype_;
  std::size_t size_;
  std::vector<std::byte> own_;
  std::byte* bound_ = nullptr;
};

/// View of values that the layer's options may leave out.
inline kernels::Values view(std::optional<ChannelValues>& values) {
  return values ? values->view() : kernels::Values{};
}

/// num_batches_tracked, absent until it is set, in the layer's own memory or in the caller's.
class BatchCounter {
 public:
  explicit operator bool() const { return exists_; }
  BatchCounter& operator=(std::int64_t batches);
  void bind(void* memory) { bound_ = static_cast<std::int64_t*>(memory); }  ///< As ChannelValues::bind.
  StateEntry entry(std::string name) { return {std::move(name), data(), std::nullopt, 1}; }
  std::int64_t* data() { return bound_ != nullptr ? bound_ : &own_; }

 private:
  bool exists_ = false;
  std::int64_t own_ = 0;
  std::int64_t* bound_ = nullptr;
};

/// Parameters, buffers and gradients of a layer. Those that the options leave out are absent.
struct Parameters {
  Parameters(std::int64_t num_features, const SyncBatchNormOptions& options);

  /// Only if they exist.
  kernels::RunningStatistics running() {
    return {running_mean->view(), running_var->view(), num_batches_tracked.data()};
  }
  void reset_running_stats();
  void reset();
  std::vector<StateEntry> state();
  void bind(std::string_view name, void* memory);  ///< As FrameworkHooks::bind.

  DType dtype;
  std::optional<ChannelValues> weight, bias;
  std::optional<ChannelValues> running_mean, running_var;
  BatchCounter num_batches_tracked;
  std::optional<ChannelValues> weight_grad, bias_grad;
};

}  // namespace syncbn::layer
