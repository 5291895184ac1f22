#pragma once

#include <string>

namespace syncbn::launch {

/// The numeric address of `host`, which --master_addr names. @throws UsageError
std::string numeric_address(const std::string& host);
/// The address by which this machine reaches `host`. @throws UsageError
std::string own_address_towards(const std::string& host);
std::string host_name();

}  // namespace syncbn::launch
