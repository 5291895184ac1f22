#pragma once

#include <string>
#include <vector>

namespace syncbn::base {

/// Ranks in ascending order as text for messages: "rank 2", "ranks 0-1, 3".
std::string rank_list(const std::vector<int>& ranks);

}  // namespace syncbn::base
