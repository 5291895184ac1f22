// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "syncbn/export.h"

namespace syncbn {

/// Number of threads that one call on this thread may use: set_num_threads, else SYNCBN_NUM_THREADS, else
/// OMP_NUM_THREADS, else the machine's cores divided by the ranks on this host. Results have the same bits
/// for every number. @throws InvalidArgument one of the variables is not a number in [1, 4096]
SYNCBN_API int get_num_threads();
/// Sets the number of threads for calls from this thread; 0 restores the default.
/// @throws InvalidArgument count outside [0, 4096]
SYNCBN_API void set_num_threads(int count);

/// A function that runs task(0) ... task(count - 1), in any order and on any threads, and returns when all
/// are done. If it throws, the layer's call fails with the same exception and changes nothing in the layer.
using ParallelFor = std::function<void(int count, const std::function<void(int)>& task)>;
/// Runs the library's parallel loops on the host program's thread pool; an empty function restores the
/// library's own pool. Must not be called while a layer works.
SYNCBN_API void set_parallel_for(ParallelFor run);

}  // namespace syncbn
