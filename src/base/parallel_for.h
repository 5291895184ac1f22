#pragma once

#include <functional>

namespace syncbn::base {

namespace detail {
void parallel_for(int count, const std::function<void(int)>& task);
}

/// Runs task(0) … task(count - 1) on get_num_threads() threads, this one among them, each under
/// FpEnvironment, and returns when all are done. Tasks do not throw. Serial in the fork of a
/// process that had several threads: OpenMP's pool does not survive it.
template <class Task>
void parallel_for(int count, const Task& task) {
  detail::parallel_for(count, std::ref(task));  // a reference, for which std::function allocates nothing
}

/// How many ranks share this host's cores: the default of get_num_threads() divides by it.
void share_cores(int local_ranks);

}  // namespace syncbn::base
