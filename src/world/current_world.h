// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "syncbn/error.h"
#include "world/world.h"

/// The current world: the calling thread's world (run_ranks), otherwise the process's world (init).
namespace syncbn::world {

/// Null if there is none.
std::shared_ptr<World> current_world();
/// Gives the calling thread a world. Null makes the thread as if it never had one.
void set_thread_world(std::shared_ptr<World> world);
/// Gives the process a world. Null makes the process as if it never had one.
void set_process_world(std::shared_ptr<World> world);
/// Takes the current world away from the thread or the process, and returns it. A thread that had its own
/// world then has none: it does not fall back to the world of the process.
std::shared_ptr<World> release_current_world();

/// True if release_current_world() has taken away the world that would be the current one.
bool is_world_released();
/// The world of the calling thread itself, or null. Costs a few nanoseconds.
const World* thread_world();
/// True if set_thread_world() gave this thread a world, even if it was released since.
bool thread_has_world();

/// The error of a function that needs a world if there is none. `caller` is the function or the group.
GroupError not_initialised(const std::string& caller);

}  // namespace syncbn::world
