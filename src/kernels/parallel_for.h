#pragma once

#include <functional>

namespace syncbn::kernels {

namespace detail {
void parallel_for(int count, const std::function<void(int)>& task);
}

/// Runs task(0) … task(count - 1) on get_num_threads() threads, this one among them, each under
/// FpEnvironment, and returns when all are done. Tasks do not throw. Serial in a child that was forked after
/// first use: OpenMP's threads do not survive a fork.
template <class Task>
void parallel_for(int count, const Task& task) {
  detail::parallel_for(count, std::ref(task));  // a reference, for which std::function allocates nothing
}

/// How many ranks share this host's cores: the default of get_num_threads() divides by it.
void share_cores(int local_ranks);

}  // namespace syncbn::kernels
