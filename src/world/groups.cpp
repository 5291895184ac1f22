// SPDX-License-Identifier: Apache-2.0

// The functions of syncbn/group.h that make groups and answer questions about ranks.
#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "base/rank_list.h"
#include "environment/launch_env.h"
#include "syncbn/error.h"
#include "syncbn/group.h"
#include "world/current_world.h"

namespace syncbn {
namespace {

GroupError not_initialised(std::string_view function, std::string_view group) {
  return world::not_initialised(fmt::format("{}: group '{}'", function, group));
}

std::shared_ptr<world::World> require_world(std::string_view function, std::string_view group) {
  auto current = world::current_world();
  if (current == nullptr) throw not_initialised(function, group);
  return current;
}

void check_rank(const char* argument, int rank) {
  if (rank < 0) throw InvalidArgument(fmt::format("{}: {}, expected a rank >= 0", argument, rank));
}

// Result of a get function. It comes from the group or, for the world before the first init(), from the
// launcher's environment. After release() there is no result: a rank that took part in a world must not take
// itself for rank 0 of 1.
template <class FromGroup, class FromEnvironment>
int query(const char* function, std::string_view name, FromGroup from_group,
          FromEnvironment from_environment) {
  if (const auto current = world::current_world()) return from_group(*current, *current->group(name));
  if (!world::is_world_name(name) || world::is_world_released()) throw not_initialised(function, name);
  return from_environment(environment::read_launch_env());
}

}  // namespace

void create_group(const std::string& name, const std::vector<int>& ranks) {
  require_world("create_group", name)->create_group(name, ranks);
}

std::string new_group(const std::vector<int>& ranks) {
  const auto current = world::current_world();
  if (current == nullptr)
    throw world::not_initialised(fmt::format("new_group: ranks {}", base::bracketed(ranks)));
  return current->new_group(ranks);
}

void destroy_group(const std::string& name) { require_world("destroy_group", name)->destroy_group(name); }

int get_rank(std::string_view group) {
  return query(
      "get_rank", group, [](world::World&, Group& g) { return g.rank(); },
      [](const environment::LaunchEnv& env) { return env.world.rank.value_or(0); });
}

int get_group_size(std::string_view group) {
  return query(
      "get_group_size", group, [](world::World&, Group& g) { return g.size(); },
      [](const environment::LaunchEnv& env) { return env.world.size; });
}

int get_local_rank(std::string_view group) {
  return query(
      "get_local_rank", group, [](world::World& world, Group& g) { return world.local_rank(g); },
      [](const environment::LaunchEnv& env) { return env.local_rank; });
}

int get_local_rank_size(std::string_view group) {
  return query(
      "get_local_rank_size", group, [](world::World& world, Group& g) { return world.local_size(g); },
      [](const environment::LaunchEnv& env) { return env.local_size; });
}

int get_world_rank_from_group_rank(std::string_view group, int group_rank) {
  const auto current = require_world("get_world_rank_from_group_rank", group);
  check_rank("group_rank", group_rank);
  const auto found = current->group(group);
  if (group_rank >= found->size()) {
    throw GroupError(
        fmt::format("group_rank: {}, group '{}' has the ranks [0, {})", group_rank, group, found->size()));
  }
  return found->ranks()[static_cast<std::size_t>(group_rank)];
}

int get_group_rank_from_world_rank(int world_rank, std::string_view group) {
  const auto current = require_world("get_group_rank_from_world_rank", group);
  check_rank("world_rank", world_rank);
  const auto found = current->group(group);
  const auto& ranks = found->ranks();
  const auto at = std::find(ranks.begin(), ranks.end(), world_rank);
  if (at == ranks.end()) {
    throw GroupError(fmt::format("world_rank: {} is not in group '{}', which has {}", world_rank, group,
                                 base::bracketed(ranks)));
  }
  return static_cast<int>(at - ranks.begin());
}

}  // namespace syncbn
