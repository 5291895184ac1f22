// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <memory>
#include <utility>

#include "base/rank_list.h"
#include "base/timeout.h"
#include "engines/local_group.h"
#include "environment/launch_env.h"
#include "group/group.h"
#include "syncbn/error.h"

namespace syncbn {

std::shared_ptr<Group> make_group(std::string name, std::unique_ptr<Communicator> communicator,
                                  std::optional<std::chrono::milliseconds> timeout,
                                  const std::string& timeout_setting) {
  if (name.empty()) throw InvalidArgument("name: empty, expected a name for messages");
  if (communicator == nullptr)
    throw InvalidArgument(fmt::format("communicator: null, group '{}' needs one", name));
  const int rank = communicator->rank();
  const int size = communicator->size();
  if (size < 1 || size > base::kMaxRanks || rank < 0 || rank >= size) {
    throw InvalidArgument(
        fmt::format("communicator: rank {} of {} ranks, expected a rank in [0, size), and a size in [1, {}]",
                    rank, size, base::kMaxRanks));
  }
  base::check_timeout(timeout);
  // A std::function must be copyable, so the function has the communicator by a shared pointer.
  const auto given = std::make_shared<std::unique_ptr<Communicator>>(std::move(communicator));
  const bool may_share = environment::read_shared_memory();
  return std::make_shared<Group>(
      std::move(name), base::all_ranks(size), rank, environment::call_limit(timeout, timeout_setting),
      [given, may_share](Deadline deadline) {
        return engines::share_memory_of_hosts(std::move(*given), may_share, deadline);
      });
}

}  // namespace syncbn
