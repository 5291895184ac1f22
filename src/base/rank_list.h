// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/engine_api.h"

namespace syncbn::base {

/// Maximum number of ranks. Sums are exact up to it: digits of 47 bits are added in words of 63.
inline constexpr int kMaxRanks = 1 << 16;

/// 0, 1, …, size - 1.
std::vector<int> all_ranks(int size);

/// Ascending numbers, in ranges where they follow each other: "0-1, 3".
std::string ranges(const std::vector<int>& numbers);

/// Ascending ranks as words for messages: "rank 2", "ranks 0-1, 3".
SYNCBN_ENGINE_API std::string rank_list(const std::vector<int>& ranks);

/// Ranks in the order given, as a list for messages: "[2, 0, 1]".
SYNCBN_ENGINE_API std::string bracketed(const std::vector<int>& ranks);

}  // namespace syncbn::base
