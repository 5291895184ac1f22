// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "group/engine.h"

namespace syncbn::engines {

/// Engine for a dry run of `rank` in a world of `size` ranks of which no other exists. Every peer is assumed
/// to pass the same words as this rank, so a sum is this rank's words times the size of the group and is
/// complete at once. All ranks count as ranks on this host.
std::unique_ptr<group::Engine> simulated_engine(int rank, int size);

}  // namespace syncbn::engines
