// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engines/mpi_calls.h"

namespace syncbn::engines {

#ifdef OPEN_MPI
inline constexpr const char* kMpi = "Open MPI";
#else
inline constexpr const char* kMpi = "MPICH";
#endif

/// Initializes MPI if the host program has not done it, and finalizes MPI at the end of the process.
/// @throws GroupError
void initialize_mpi();

}  // namespace syncbn::engines
