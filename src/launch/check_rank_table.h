// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace syncbn::launch {

/// Describes a rank table: servers, devices, ranks, ignored keys, and which server this machine is.
/// @throws UsageError the table is wrong
std::string describe_rank_table(const std::string& file);

}  // namespace syncbn::launch
