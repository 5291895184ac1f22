// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace syncbn::launch {

/// A task in tests/launch/programs.
inline std::string program(const std::string& name) { return std::string(SYNCBN_PROGRAMS) + "/" + name; }

/// Shell command with which a worker joins the store as $RANK, as init() does.
inline std::string join_as_rank() { return "python3 " + program("join.py") + "; "; }

}  // namespace syncbn::launch
