#pragma once

#include <functional>

namespace syncbn {

/// Threads that one call on this thread may use: set_num_threads, else SYNCBN_NUM_THREADS, else
/// OMP_NUM_THREADS, else the machine's cores divided by the ranks on this host. The results' bits do not
/// depend on it.
int get_num_threads();
/// For calls from this thread; 0 restores the default. @throws InvalidArgument count outside [0, 4096]
void set_num_threads(int count);

/// Runs task(0) … task(count - 1), in any order and on any threads, and returns when all are done. Where it
/// throws, the layer's call fails with that exception and has changed no state.
using ParallelFor = std::function<void(int count, const std::function<void(int)>& task)>;
/// Lets the host program's thread pool do the work; an empty function restores the library's own. Not to be
/// called while a layer works.
void set_parallel_for(ParallelFor run);

}  // namespace syncbn
