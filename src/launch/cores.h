// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

/// Processor cores that a process may run on. Cores are numbered as the system numbers them.
namespace syncbn::launch {

/// Value of --bind_core.
struct CoreBinding {
  bool even = false;  ///< True: split this machine's cores evenly over its workers.
  std::map<std::string, std::vector<int>> chosen;  ///< Cores by "device0", …, "scheduler".
};

/// Reads "True", "False", or JSON such as {"device0": ["0-10", "12"], "scheduler": ["11"]}.
/// @throws UsageError
CoreBinding parse_bind_core(std::string_view text);

/// The cores that this process may use, in ascending order. They respect taskset and the cpuset of the
/// cgroup.
/// @throws std::system_error
std::vector<int> usable_cores();

/// Restricts this thread to `cores` for its lifetime, and with it the children forked meanwhile. If `cores`
/// is empty, nothing changes.
class ScopedAffinity {
 public:
  /// @throws std::system_error
  explicit ScopedAffinity(const std::vector<int>& cores);
  ~ScopedAffinity();
  ScopedAffinity(const ScopedAffinity&) = delete;
  ScopedAffinity& operator=(const ScopedAffinity&) = delete;

 private:
  std::vector<int> before_;  // empty: nothing to restore
};

/// Splits `cores` into `parts` runs of neighbours whose lengths differ by at most one. parts <= cores.size().
std::vector<std::vector<int>> split_evenly(const std::vector<int>& cores, int parts);

}  // namespace syncbn::launch
