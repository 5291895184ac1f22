// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/api.h"

namespace syncbn::device {

/// A device whose memory is the host's, and whose kernels the executor runs.
const Api& emulated_api();

}  // namespace syncbn::device
