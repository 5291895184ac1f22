// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/engine_api.h"
#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Lets a group sum in shared memory if all of its ranks run on one host.
///
/// The ranks find out over `connected`, a communicator of any engine: one sum brings each rank's host to all
/// others. If it is the same host, they try to share memory and sum in it. A last sum decides: all ranks use
/// the memory, or none does. Returns `connected` itself if none does. Otherwise the result owns `connected`.
/// Every rank of the group calls it, and a rank that must not share (`allowed` is false) keeps all from it.
/// After an exception the caller still has `connected`: peers may need it to complete a sum.
/// @throws MismatchError if the ranks have different versions of the library; what `connected` throws
SYNCBN_ENGINE_API std::unique_ptr<Communicator> share_memory_on_one_host(
    std::unique_ptr<Communicator>&& connected, bool allowed, Deadline deadline);

}  // namespace syncbn::engines
