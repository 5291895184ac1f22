// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/device_kernels.h"
#include "device/emulated.h"

namespace syncbn::device {

/// The device whose kernels the executor runs. Made known at the first call.
inline Device emulated_device() {
  static const Device device = [] {
    const Device made{static_cast<Device::Type>(101)};
    add(made, "emulated", emulated_api(), 0);
    return made;
  }();
  return device;
}

}  // namespace syncbn::device
