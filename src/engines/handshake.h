#pragma once

#include <string>

#include "group/engine.h"
#include "rendezvous/store.h"

namespace syncbn::engines {

/// Lets the members of a group find out, through a store that they share, that they mean the same list,
/// before they connect. Returns when every member of `spec.ranks` has come with the same list and generation;
/// the result names this very group on every member and no other, for the keys of what follows.
/// @throws MismatchError at once, where a member of the list came with another one that has this rank in it;
/// TimeoutError saying who never came and which lists were seen; PeerError the store is gone
std::string agree_on_list(rendezvous::Store& store, const group::GroupSpec& spec, int world_rank,
                          Deadline deadline);

}  // namespace syncbn::engines
