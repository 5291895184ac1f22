#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

/// Which processor cores a process may run on. Cores have the system's numbers.
namespace syncbn::launch {

/// What --bind_core asks for.
struct CoreBinding {
  bool even = false;                               ///< This machine's cores, split evenly over its workers.
  std::map<std::string, std::vector<int>> chosen;  ///< Cores of "device0", …, and of "scheduler".
};

/// Reads "True", "False", or JSON such as {"device0": ["0-10", "12"], "scheduler": ["11"]}.
/// @throws UsageError
CoreBinding parse_bind_core(std::string_view text);

/// The cores that this process may use (a cgroup's cpuset and taskset are kept), in order.
/// @throws std::system_error
std::vector<int> usable_cores();

/// Keeps this thread, and every child that it forks meanwhile, on `cores`; empty: where it is.
class OnCores {
 public:
  /// @throws std::system_error
  explicit OnCores(const std::vector<int>& cores);
  ~OnCores();
  OnCores(const OnCores&) = delete;
  OnCores& operator=(const OnCores&) = delete;

 private:
  std::vector<int> before_;  // empty: nothing to restore
};

/// `parts` runs of neighbours, which differ by at most one in length; parts <= cores.size().
std::vector<std::vector<int>> split_evenly(const std::vector<int>& cores, int parts);

/// Of numbers in order: "0-3, 8".
std::string list_of(const std::vector<int>& numbers);

}  // namespace syncbn::launch
