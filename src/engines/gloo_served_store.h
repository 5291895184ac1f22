// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "environment/world_spec.h"
#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Makes sure that the job's store is served and returns its port. This process serves the store if
/// `spec.serve` is yes. If it is if_port_is_free, the first process to take the port serves it. A store that
/// this process serves outlives release(), because a peer may still use it, and ends with the process.
/// @throws GroupError if this process must serve the store and cannot; TimeoutError, Interrupted
int serve_or_find_store(const environment::WorldSpec& spec, Deadline deadline);

}  // namespace syncbn::engines
