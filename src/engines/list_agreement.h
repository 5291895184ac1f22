// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/engine_api.h"
#include "group/engine.h"
#include "rendezvous/store.h"

namespace syncbn::engines {

/// Checks through a store that all members of a group have the same list, before they connect. Returns when
/// every member of `spec.ranks` has posted the same list and generation. The result is a key that is the same
/// on every member of this group and differs from the keys of all other groups.
/// @throws MismatchError at once if a member of the list has posted another list that contains this rank;
/// TimeoutError with the members that never came and the lists that were seen; PeerError if the store is gone
SYNCBN_ENGINE_API std::string agree_on_list(rendezvous::Store& store, const group::GroupSpec& spec,
                                            int world_rank, Deadline deadline);

/// Message of the MismatchError if the world ranks a and b have different lists, given as "[0, 1]".
SYNCBN_ENGINE_API std::string different_lists(int a, std::string_view list_of_a, int b,
                                              std::string_view list_of_b);

}  // namespace syncbn::engines
