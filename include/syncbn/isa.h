// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "syncbn/export.h"

namespace syncbn {

/// Lists the instruction sets that this build and this machine share, best first; the last is always
/// "scalar". Results have the same bits on each of them.
SYNCBN_API std::vector<std::string> available_isas();
/// Name of the instruction set in use: force_isa, else SYNCBN_ISA, else the best.
/// @throws InvalidArgument SYNCBN_ISA is not available
SYNCBN_API std::string active_isa();
/// Chooses the instruction set, for tests; none restores the default. Must not be called while a layer works.
/// @throws InvalidArgument not available; the message lists what is
SYNCBN_API void force_isa(const std::optional<std::string>& name);

}  // namespace syncbn
