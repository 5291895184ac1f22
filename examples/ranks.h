#pragma once

#include <functional>

/// Runs `body` on `threads` ranks that are threads of this process or, where `threads` is 0, on the one rank
/// that this process is in its launcher's world: the same code in both. Its argument counts this process's
/// ranks from 0. A rank that fails says so on stderr, with its rank. Returns the process's exit code: 0, or 1
/// where a rank of this process failed.
int run_on_ranks(int threads, const std::function<void(int)>& body);
