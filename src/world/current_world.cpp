// SPDX-License-Identifier: Apache-2.0
#include "world/current_world.h"

#include <mutex>
#include <utility>

namespace syncbn::world {
namespace {

// The world of a thread or of the process.
struct Slot {
  bool is_set = false;           // also after a release
  std::shared_ptr<World> world;  // null if not set or released

  void set(std::shared_ptr<World> given) {
    is_set = given != nullptr;
    world = std::move(given);
  }
};

std::mutex process_mutex;  // guards process_slot()
// Created at its first use, so it is destroyed before the static objects of the engines.
Slot& process_slot() {
  static Slot slot;
  return slot;
}

thread_local Slot thread_slot;

// Calls use(slot) with the slot of the thread if it is set, else with the slot of the process.
template <class Use>
auto with_current_slot(const Use& use) {
  if (thread_slot.is_set) return use(thread_slot);
  const std::lock_guard lock(process_mutex);
  return use(process_slot());
}

}  // namespace

std::shared_ptr<World> current_world() {
  return with_current_slot([](Slot& slot) { return slot.world; });
}

void set_thread_world(std::shared_ptr<World> world) { thread_slot.set(std::move(world)); }

void set_process_world(std::shared_ptr<World> world) {
  const std::lock_guard lock(process_mutex);
  process_slot().set(std::move(world));
}

std::shared_ptr<World> release_current_world() {
  return with_current_slot([](Slot& slot) { return std::exchange(slot.world, nullptr); });
}

bool is_world_released() {
  return with_current_slot([](Slot& slot) { return slot.is_set && slot.world == nullptr; });
}

const World* thread_world() { return thread_slot.world.get(); }

bool thread_has_world() { return thread_slot.is_set; }

GroupError not_initialised(const std::string& caller) {
  if (thread_has_world()) return GroupError(caller + ": this thread's world has been released");
  if (is_world_released()) return GroupError(caller + ": the world has been released; call init() first");
  return GroupError(caller + ": not initialised; call init() first");
}

}  // namespace syncbn::world
