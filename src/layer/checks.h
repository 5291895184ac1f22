// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "syncbn/framework.h"
#include "syncbn/sync_batch_norm.h"

/// What a call is checked for before it touches anything. All throw InvalidArgument that names the argument,
/// its value and what is allowed.
namespace syncbn::layer {

void check_options(std::int64_t num_features, const SyncBatchNormOptions& options);
void check_forward(const ForwardTensors& tensors, std::int64_t num_features,
                   const SyncBatchNormOptions& options);
void check_backward(const BackwardTensors& tensors, std::int64_t num_features,
                    const SyncBatchNormOptions& options);
void check_double_backward(const DoubleBackwardTensors& tensors, std::int64_t num_features,
                           const SyncBatchNormOptions& options);
/// Checks that a forward has filled `saved`, for so many channels in this memory.
void check_saved(const Saved& saved, std::int64_t num_features, const DeviceMemory& memory);
void check_saved_sums(const BackwardSums& sums, std::int64_t num_features, const DeviceMemory& memory);
/// That backward is given as many elements per channel as forward was, as far as the Saved can tell.
void check_count(const Saved& saved, std::int64_t positions);

/// What a call reads or writes of the caller's.
struct Use {
  const char* name;
  const void* data;
  std::size_t bytes;
  bool written;
};
std::vector<Use> uses_of(const ForwardTensors& tensors, const Saved& saved);
std::vector<Use> uses_of(const BackwardTensors& tensors, const Saved& saved);
/// That a call neither writes what a call before it uses, nor reads what that one has still to write.
void check_apart(const std::vector<Use>& uses, const std::vector<Use>& before);

}  // namespace syncbn::layer
