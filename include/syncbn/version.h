// SPDX-License-Identifier: Apache-2.0
#pragma once

#define SYNCBN_VERSION_MAJOR 0
#define SYNCBN_VERSION_MINOR 1
#define SYNCBN_VERSION_PATCH 0
#define SYNCBN_VERSION "0.1.0"

namespace syncbn {

/// Version of the arithmetic. Equal versions give equal bits for statistics, outputs, gradients and running
/// statistics, whatever the number of ranks, the split, the threads, the layout and the instruction set.
inline constexpr int kBitsVersion = 1;

}  // namespace syncbn
