#pragma once

#include <string>

namespace syncbn::launch {

/// A rank table in words: servers, devices, ranks, what was ignored, and which server this machine is.
/// @throws UsageError the table is wrong
std::string describe_rank_table(const std::string& file);

}  // namespace syncbn::launch
