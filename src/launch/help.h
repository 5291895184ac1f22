// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace syncbn::launch {

/// Text of --help. It shows the defaults of Options.
std::string help_text();

}  // namespace syncbn::launch
