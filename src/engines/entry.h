// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "base/engine_api.h"
#include "environment/world_spec.h"
#include "group/engine.h"

namespace syncbn::engines {

/// An engine that is linked into the program. Each engine's library registers itself.
struct EngineEntry {
  const char* name;  ///< "gloo", "mpi"
  std::unique_ptr<group::Engine> (*join)(const environment::WorldSpec& spec, Deadline deadline);
};
/// `entry` must live as long as the program.
SYNCBN_ENGINE_API void register_engine(const EngineEntry& entry);
/// Sets a function that loads the library of an engine. find_engine() calls it with the name of an engine
/// that is not registered, and passes on its exceptions. For programs that do not know in advance which
/// engines they need.
SYNCBN_ENGINE_API void set_engine_loader(void (*load)(const std::string& name));
/// @throws GroupError with the names of the linked engines if the engine is not among them
const EngineEntry& find_engine(const std::string& name);

}  // namespace syncbn::engines
