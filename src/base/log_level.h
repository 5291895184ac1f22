// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace syncbn::base {

/// Level of a line on standard error. Errors are exceptions, so no line of the library has the level `error`.
enum class LogLevel { off, error, warning, info };

/// SYNCBN_LOG: the most detailed level that is printed. `warning` if the variable is not set.
/// @throws GroupError if the value is none of off, error, warning and info
LogLevel log_level();

}  // namespace syncbn::base
