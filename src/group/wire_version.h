// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/engine_api.h"
#include "syncbn/communicator.h"

namespace syncbn::group {

/// Version of what ranks send each other over a group's communicator: the first sums of a connection
/// (engines/local_group.cpp), headers, payloads and reports (agreed_sum.cpp). Raised with every change of
/// them.
inline constexpr std::int64_t kWireVersion = 1;

/// Checks that all ranks of a new connection have the same version. Between two versions the messages may
/// have unequal lengths, with which Gloo ends the process and MPI may return wrong sums. So this sum is the
/// first of a connection between processes, and it is the same in all versions: 1, v and v², and only if the
/// versions v differ a second one, with a word for each rank.
/// @throws MismatchError with the ranks of each version; PeerError as check_all_counted(); what the
/// communicator throws
SYNCBN_ENGINE_API void check_wire_version(Communicator& connected, Deadline deadline,
                                          std::int64_t own = kWireVersion);

}  // namespace syncbn::group
