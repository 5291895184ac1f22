#pragma once

#include <optional>
#include <string>
#include <vector>

namespace syncbn {

/// Instruction sets that this build and this machine share, best first; "scalar" is always the last. The
/// results' bits do not depend on which one runs.
std::vector<std::string> available_isas();
/// The one in use: force_isa, else SYNCBN_ISA, else the best. @throws InvalidArgument SYNCBN_ISA is not
/// available.
std::string active_isa();
/// none restores the default. Not to be called while a layer works. @throws InvalidArgument not available;
/// the message lists what is.
void force_isa(const std::optional<std::string>& name);

}  // namespace syncbn
