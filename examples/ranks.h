// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

/// Runs `body` on `threads` ranks that are threads of this process. If `threads` is 0, runs it on the one
/// rank that this process is in its launcher's world. The argument of `body` counts this process's ranks from
/// 0. A rank that fails prints its rank and the error on stderr. Returns the process's exit code: 0, or 1 if
/// a rank of this process failed.
int run_on_ranks(int threads, const std::function<void(int)>& body);
