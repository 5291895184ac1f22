// SPDX-License-Identifier: Apache-2.0

// The entry of a device's library, as src/device/cuda/library.cu has it.

#include "device/emulated.h"

extern "C" __attribute__((visibility("default"))) const syncbn::device::Api* syncbn_device_api() {
  return &syncbn::device::emulated_api();
}
