// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/forks.h"
#include "base/timeout.h"
#include "group/engine.h"
#include "group/group.h"

namespace syncbn::world {

/// The ranks of a job as one rank sees them, and the groups that it has made. Thread-safe.
class World {
 public:
  World(std::shared_ptr<group::Engine> engine, base::TimeLimit limit);
  ~World();
  /// Closes every group. A later sum of a group that is still held is a GroupError.
  void close() noexcept;

  int rank() const { return engine_->rank(); }
  int size() const { return engine_->size(); }

  // The same as the free functions of syncbn/group.h.
  void create_group(const std::string& name, const std::vector<int>& ranks);
  std::string new_group(std::vector<int> ranks);
  void destroy_group(const std::string& name);
  /// @throws GroupError with the names of the existing groups if the name is unknown
  std::shared_ptr<Group> group(std::string_view name) const;
  int local_rank(const Group& group) const;  ///< Number of members before this rank on its host.
  int local_size(const Group& group) const;  ///< Number of members on this rank's host.

 private:
  bool inherited() const { return size() > 1 && fork_guard_.inherited(); }
  int count_on_own_host(std::span<const int> ranks) const;
  void check_ranks(const std::string& caller, const std::vector<int>& ranks) const;
  std::shared_ptr<Group> make_group(const group::GroupSpec& spec) const;

  std::shared_ptr<group::Engine> engine_;
  const base::ForkGuard fork_guard_;
  const base::TimeLimit limit_;
  mutable std::mutex mutex_;  // guards all members below
  std::map<std::string, std::shared_ptr<Group>, std::less<>> groups_;
  // Number of groups that were made with each name and list.
  std::map<std::pair<std::string, std::vector<int>>, int> generations_;
};

/// True if the name means the world: kWorldGroup, or one of MindSpore's names for it.
bool is_world_name(std::string_view name);

}  // namespace syncbn::world
