// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "syncbn/sync_batch_norm.h"

/// A device whose memory only kernels may touch: it proves that the layer stays away from elements and
/// per-channel values. Its kernels are the CPU's; its memory is PROT_NONE while it is closed and no kernel
/// runs.
namespace syncbn::testing {

/// While it lives, all tensors are on the guarded device. Made on the test's own thread, before the ranks.
class GuardedDevice {
 public:
  GuardedDevice();
  ~GuardedDevice();
  GuardedDevice(const GuardedDevice&) = delete;
  GuardedDevice& operator=(const GuardedDevice&) = delete;

  static bool in_use();
  /// Memory of this thread, filled with `byte`. It is freed when the thread ends, all at once.
  static void* allocate(std::size_t bytes, std::byte byte);
  /// Moves all values of a layer to guarded memory.
  static void take(SyncBatchNorm& layer);
  /// Closes and opens the memory of this thread.
  static void close();
  static void open();
  /// Number of calls of kernels so far.
  static long calls();
};

}  // namespace syncbn::testing
