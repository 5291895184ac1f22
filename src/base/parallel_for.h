// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace syncbn::base {

namespace detail {
void parallel_for(int count, const std::function<void(int)>& task);
}

/// Runs task(0) … task(count - 1) on get_num_threads() threads, the calling thread included, and returns when
/// all tasks are done. Each task runs under FpEnvironment. Tasks must not throw. In a fork of a process that
/// had several threads the tasks run serially, because OpenMP's pool does not survive a fork.
template <class Task>
void parallel_for(int count, const Task& task) {
  detail::parallel_for(count, std::ref(task));  // a reference, for which std::function allocates nothing
}

/// Sets the number of ranks that share this host's cores. The default of get_num_threads() is the number of
/// cores divided by it.
void share_cores(int local_ranks);

}  // namespace syncbn::base
