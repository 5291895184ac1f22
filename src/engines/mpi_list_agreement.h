// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engines/mpi_calls.h"
#include "group/engine.h"

namespace syncbn::engines {

/// Returns when every member of the group has the same list and knows that all others have it too. The
/// members exchange texts under `tag`, which does not depend on the list.
/// @throws MismatchError on every member that can be reached; TimeoutError with the members that did not come
void agree_on_list(MPI_Comm world, int world_rank, const group::GroupSpec& spec, int tag, Deadline deadline);

/// Frees the texts of all groups that have been delivered.
void free_delivered_texts();

}  // namespace syncbn::engines
