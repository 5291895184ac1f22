#pragma once

#include <string>

namespace syncbn::base {

/// The host's name, for people.
std::string host_name();

/// Equal for ranks on one host, and only for them: the name, which machines may share, with the kernel's boot
/// id and the network namespace, so that containers of one machine are hosts of their own. What can't be read
/// is left out.
std::string host_identity();

}  // namespace syncbn::base
