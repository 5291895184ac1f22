// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace syncbn::launch {

/// The numeric address of `host`, the value of --master_addr. @throws UsageError
std::string numeric_address(const std::string& host);
/// The address of this machine on its route to `host`. @throws UsageError
std::string own_address_towards(const std::string& host);

}  // namespace syncbn::launch
