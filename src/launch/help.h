#pragma once

#include <string>

namespace syncbn::launch {

/// What --help prints. The defaults in it are those of Options.
std::string help_text();

}  // namespace syncbn::launch
