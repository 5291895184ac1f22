// SPDX-License-Identifier: Apache-2.0
#include "world/current_world.h"

#include <mutex>
#include <optional>
#include <utility>

namespace syncbn::world {
namespace {

// No value: never set. Null: released.
using WorldSlot = std::optional<std::shared_ptr<World>>;

std::mutex process_mutex;  // guards process_slot()
WorldSlot& process_slot() {
  static WorldSlot
      slot;  // created at its first use, so it is destroyed before the static objects of the engines
  return slot;
}

thread_local WorldSlot thread_slot;

WorldSlot filled(std::shared_ptr<World> world) {
  return world == nullptr ? std::nullopt : WorldSlot(std::move(world));
}

}  // namespace

std::shared_ptr<World> current_world() {
  if (thread_slot) return *thread_slot;
  const std::lock_guard lock(process_mutex);
  return process_slot().value_or(nullptr);
}

void set_thread_world(std::shared_ptr<World> world) { thread_slot = filled(std::move(world)); }

void set_process_world(std::shared_ptr<World> world) {
  const std::lock_guard lock(process_mutex);
  process_slot() = filled(std::move(world));
}

std::shared_ptr<World> release_current_world() {
  if (thread_slot) return std::exchange(*thread_slot, nullptr);
  const std::lock_guard lock(process_mutex);
  return process_slot() ? std::exchange(*process_slot(), nullptr) : nullptr;
}

bool is_world_released() {
  if (thread_slot) return *thread_slot == nullptr;
  const std::lock_guard lock(process_mutex);
  return process_slot() && *process_slot() == nullptr;
}

const World* thread_world() { return thread_slot ? thread_slot->get() : nullptr; }

bool thread_has_world() { return thread_slot.has_value(); }

GroupError not_initialised(const std::string& caller) {
  if (thread_has_world()) return GroupError(caller + ": this thread's world has been released");
  if (is_world_released()) return GroupError(caller + ": the world has been released; call init() first");
  return GroupError(caller + ": not initialised; call init() first");
}

}  // namespace syncbn::world
