// SPDX-License-Identifier: Apache-2.0
#include "world/world.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

#include "base/long_wait.h"
#include "base/rank_list.h"
#include "syncbn/error.h"

namespace syncbn::world {

bool is_world_name(std::string_view name) {
  return name == kWorldGroup || name == "hccl_world_group" || name == "nccl_world_group" ||
         name == "mccl_world_group";
}

World::World(std::shared_ptr<group::Engine> engine, base::TimeLimit limit)
    : engine_(std::move(engine)), limit_(std::move(limit)) {
  groups_.emplace(kWorldGroup, make_group({std::string(kWorldGroup), base::all_ranks(size()), 0}));
}

World::~World() {
  close();
  if (inherited()) base::leak(engine_);
}

void World::close() noexcept {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, group] : groups_) group->close("this rank has left its world");
}

// A group connects at its first sum; a group of one never connects. Every group has a separate connection,
// even two groups with the same list. On a shared connection the sums of both groups would have to come in
// the same order on all ranks, which the ranks do not guarantee.
std::shared_ptr<Group> World::make_group(const group::GroupSpec& spec) const {
  const auto position = std::find(spec.ranks.begin(), spec.ranks.end(), rank()) - spec.ranks.begin();
  auto connect = [engine = engine_, spec, limit = limit_](Deadline deadline) {
    const base::LongWait wait(fmt::format("rank {} of {}", engine->rank(), engine->size()),
                              fmt::format("to connect group '{}'", spec.name), limit);
    return engine->connect(spec, deadline);
  };
  // Weak, because a closed group must not keep the engine alive.
  auto note = [engine = std::weak_ptr(engine_)] {
    if (const auto locked = engine.lock()) locked->note_peer_error();
  };
  return std::make_shared<Group>(spec.name, spec.ranks, static_cast<int>(position), limit_,
                                 std::move(connect), std::move(note));
}

void World::check_ranks(const std::string& caller, const std::vector<int>& ranks) const {
  const auto refuse = [&](const std::string& why) {
    throw InvalidArgument(fmt::format("{}, ranks {}: {}", caller, base::bracketed(ranks), why));
  };
  if (ranks.empty()) refuse("a group needs at least one rank");
  std::set<int> seen;
  for (const int r : ranks) {
    if (r < 0 || r >= size()) refuse(fmt::format("rank {} is outside [0, {}), the world", r, size()));
    if (!seen.insert(r).second) refuse(fmt::format("rank {} is in it twice", r));
  }
}

void World::create_group(const std::string& name, const std::vector<int>& ranks) {
  const std::string call = fmt::format("create_group: group '{}'", name);
  if (name.empty())
    throw InvalidArgument(fmt::format("{}, ranks {}: a group needs a name", call, base::bracketed(ranks)));
  check_ranks(call, ranks);
  if (inherited())
    throw GroupError(fmt::format("{}, ranks {}: this process is a fork of the one that joined the world",
                                 call, base::bracketed(ranks)));
  const std::lock_guard lock(mutex_);
  const auto known = groups_.find(is_world_name(name) ? kWorldGroup : std::string_view(name));
  if (known != groups_.end()) {
    if (known->second->ranks() == ranks) return;
    throw InvalidArgument(fmt::format("{}, ranks {}: the name is taken by a group of {}", call,
                                      base::bracketed(ranks), base::bracketed(known->second->ranks())));
  }
  if (std::find(ranks.begin(), ranks.end(), rank()) == ranks.end()) {
    throw GroupError(fmt::format("{}, ranks {}: this rank, {}, is no member; only members create a group",
                                 call, base::bracketed(ranks), rank()));
  }
  groups_.emplace(name, make_group({name, ranks, generations_[{name, ranks}]++}));
}

std::string World::new_group(std::vector<int> ranks) {
  check_ranks("new_group", ranks);
  std::sort(ranks.begin(), ranks.end());
  if (!std::binary_search(ranks.begin(), ranks.end(), rank())) return "";
  std::string name = base::rank_list(ranks);  // short even for many ranks, and different for every list
  create_group(name, ranks);
  return name;
}

void World::destroy_group(const std::string& name) {
  if (is_world_name(name)) {
    throw InvalidArgument(
        fmt::format("destroy_group: group '{}' is the world, which lasts until release()", name));
  }
  const std::shared_ptr<Group> known = group(name);
  {
    const std::lock_guard lock(mutex_);
    groups_.erase(name);
  }
  known->close("destroy_group() was called");
}

std::shared_ptr<Group> World::group(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(is_world_name(name) ? kWorldGroup : name);
  if (found != groups_.end()) return found->second;
  std::string names;
  for (const auto& [known, group] : groups_) names += fmt::format("{}'{}'", names.empty() ? "" : ", ", known);
  throw GroupError(fmt::format(
      "group '{}' is unknown to rank {} (not created, destroyed, or this rank is no member); it has {}", name,
      rank(), names));
}

int World::local_rank(const Group& group) const {
  const auto begin = group.ranks().begin();
  return count_on_own_host({begin, begin + group.rank()});
}

int World::local_size(const Group& group) const { return count_on_own_host(group.ranks()); }

int World::count_on_own_host(std::span<const int> ranks) const {
  const auto& hosts = engine_->hosts();
  const auto& own = hosts[static_cast<std::size_t>(rank())];
  return static_cast<int>(std::count_if(ranks.begin(), ranks.end(),
                                        [&](int r) { return hosts[static_cast<std::size_t>(r)] == own; }));
}

}  // namespace syncbn::world
