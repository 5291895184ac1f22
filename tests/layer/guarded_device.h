// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "syncbn/tensor.h"

/// A device whose memory only kernels may touch. It proves that the layer stays away from tensors,
/// parameters, buffers and saved columns. Its kernels are the CPU's. Its memory is PROT_NONE during a call of
/// the layer, except while a kernel runs.
namespace syncbn::testing {

/// Makes the device known at the first call.
Device guarded_device();

/// Memory of the device, which belongs to the calling thread: others may use it only while the thread makes
/// no call of a layer.
void* allocate_guarded(std::size_t bytes);
void release_guarded(void* memory) noexcept;

/// Closes the calling thread's memory of the device while it lives: during a call of a layer.
class ClosedMemory {
 public:
  ClosedMemory();
  ~ClosedMemory();
  ClosedMemory(const ClosedMemory&) = delete;
  ClosedMemory& operator=(const ClosedMemory&) = delete;
};

/// Number of calls of the device's kernels so far.
long guarded_kernel_calls();

}  // namespace syncbn::testing
