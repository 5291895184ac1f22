// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/api.h"

/// Devices whose kernels another library has, behind the layer's door (kernels/kernels.h).
namespace syncbn::device {

/// Makes a device known. `index` is its number in the api. @throws InvalidArgument no room for another device
void add(Device device, const char* name, const Api& api, int index);

}  // namespace syncbn::device
