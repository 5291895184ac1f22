// SPDX-License-Identifier: Apache-2.0
#include "world/resolve_group.h"

#include <fmt/core.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "environment/launch_env.h"
#include "syncbn/error.h"
#include "world/current_world.h"

namespace syncbn::world {
namespace {

std::mutex lone_mutex;              // guards lone_group
std::shared_ptr<Group> lone_group;  // of this rank alone, for a process without init()

}  // namespace

std::shared_ptr<Group> resolve_group(std::string_view name) {
  if (const auto world = current_world()) return world->group(name);
  if (!is_world_name(name) || is_world_released()) throw not_initialised(fmt::format("group '{}'", name));
  const environment::LaunchEnv env = environment::read_launch_env();
  if (env.world.size > 1) {
    throw GroupError(
        fmt::format("group '{}': {} has started {} ranks, which this one has not joined; call init() first",
                    name, env.launcher, env.world.size));
  }
  const std::lock_guard lock(lone_mutex);
  if (lone_group == nullptr) {
    lone_group = std::make_shared<Group>(std::string(kWorldGroup), std::vector<int>{0}, 0,
                                         environment::call_limit(), nullptr);
  }
  return lone_group;
}

void retire_lone_group(int world_size) {
  const std::lock_guard lock(lone_mutex);
  const auto retired = std::exchange(lone_group, nullptr);
  if (retired == nullptr || world_size == 1) return;
  retired->close(
      "init() has joined a world of more ranks since the layer was first used; make the layer after init()");
}

}  // namespace syncbn::world
