// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernels.h"

namespace syncbn::device {

/// The entry of a device, or null if there is none. The first search for a CUDA device loads
/// libsyncbn_cuda.so, or the library that SYNCBN_CUDA_LIBRARY names, which makes all CUDA devices known.
/// @throws InvalidArgument the library can't be loaded, or the CUDA runtime finds no device
const kernels::DeviceEntry* find(Device device);

}  // namespace syncbn::device
