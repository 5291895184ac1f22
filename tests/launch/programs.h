// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace syncbn::launch {

/// A task in tests/launch/programs.
inline std::string program(const std::string& name) { return std::string(SYNCBN_PROGRAMS) + "/" + name; }

}  // namespace syncbn::launch
