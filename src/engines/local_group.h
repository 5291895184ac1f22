// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/engine_api.h"
#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Lets the ranks of a group sum in the shared memory of their hosts.
///
/// The ranks find out over `connected`, a communicator of any engine: one sum brings each rank's host to all
/// others. The ranks of each host then try to share memory and to sum in it. On several hosts, one rank of
/// each, its leader, connects with the leaders of the other hosts; for this `connected` must be a
/// MultiHostCommunicator. A last sum decides: all ranks use the memory, or none does. Returns `connected`
/// itself if none does, also if no two ranks are on one host. Otherwise the result owns `connected`.
/// Every rank of the group calls it, and a rank that must not share (`allowed` is false) keeps all from it.
/// After an exception the caller still has `connected`: peers may need it to complete a sum.
/// @throws MismatchError if the ranks have different versions of the library; what `connected` throws
SYNCBN_ENGINE_API std::unique_ptr<Communicator> share_memory_of_hosts(
    std::unique_ptr<Communicator>&& connected, bool allowed, Deadline deadline);

}  // namespace syncbn::engines
