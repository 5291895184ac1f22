#pragma once

#include <memory>

#include "group/engine.h"

namespace syncbn::engines {

/// A dry run of `rank` in a world of `size` ranks, in which no other rank exists: every peer is taken to
/// bring what this rank brings, so that a sum is its own words times the group's size, at once. All ranks
/// count as ranks of this host.
std::unique_ptr<group::Engine> simulated_engine(int rank, int size);

}  // namespace syncbn::engines
