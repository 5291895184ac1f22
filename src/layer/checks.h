// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "syncbn/framework.h"
#include "syncbn/sync_batch_norm.h"

/// Checks of a call, before it touches anything. All throw InvalidArgument that names the argument,
/// its value and what is allowed.
namespace syncbn::layer {

void check_options(std::int64_t num_features, const SyncBatchNormOptions& options);
void check_forward(const ForwardTensors& tensors, std::int64_t num_features,
                   const SyncBatchNormOptions& options);
void check_backward(const BackwardTensors& tensors, std::int64_t num_features,
                    const SyncBatchNormOptions& options);
void check_double_backward(const DoubleBackwardTensors& tensors, std::int64_t num_features,
                           const SyncBatchNormOptions& options);
/// c = aᵀ·b of matrices, on a device of this library.
void check_matmul(const ConstTensorView& a, const ConstTensorView& b, const TensorView& c);
/// Checks that a forward has filled `saved`, for so many channels in this memory.
void check_saved(const Saved& saved, std::int64_t num_features, const DeviceMemory& memory);
void check_saved_sums(const BackwardSums& sums, std::int64_t num_features, const DeviceMemory& memory);
/// Checks that backward is given as many elements per channel as forward was, as far as the Saved can tell.
void check_count(const Saved& saved, std::int64_t positions);

/// Memory of the caller that a call reads or writes.
struct Use {
  const char* name;
  const void* data;
  std::size_t bytes;
  bool written;
};
/// The uses of one call. Holds them in place, because a call allocates nothing.
class Uses {
 public:
  const Use* begin() const { return uses_.data(); }
  const Use* end() const { return uses_.data() + size_; }
  void add(const Use& use) { uses_[size_++] = use; }

 private:
  std::array<Use, 10> uses_;
  std::size_t size_ = 0;
};
Uses uses_of(const ForwardTensors& tensors, const Saved& saved);
Uses uses_of(const BackwardTensors& tensors, const Saved& saved);
/// Checks that a call neither writes what an earlier call uses, nor reads what an earlier call has still to
/// write.
void check_apart(const Uses& uses, const std::vector<Use>& before);

}  // namespace syncbn::layer
