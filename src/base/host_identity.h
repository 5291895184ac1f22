// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/engine_api.h"

namespace syncbn::base {

/// The host's name, for messages.
SYNCBN_ENGINE_API std::string host_name();

/// A string that is equal for two ranks if and only if they run on the same host. It consists of the host
/// name (several machines may share a name), the kernel's boot id and the network namespace, so that two
/// containers on one machine count as two hosts. A part that cannot be read is left empty.
SYNCBN_ENGINE_API std::string host_identity();

}  // namespace syncbn::base
