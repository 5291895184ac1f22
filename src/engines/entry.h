#pragma once

#include <memory>
#include <string>

#include "environment/world_spec.h"
#include "group/engine.h"

namespace syncbn::engines {

/// An engine that a program was linked with. Each engine's library registers itself.
struct EngineEntry {
  const char* name;  ///< "gloo", "mpi"
  std::unique_ptr<group::Engine> (*join)(const environment::WorldSpec& spec, Deadline deadline);
};
/// `entry` must live as long as the program.
void register_engine(const EngineEntry& entry);
/// Called with the name of an engine that no library has registered, to load the library that does; what it
/// throws is the error. For a program that can't know before which engines it will need.
void set_engine_loader(void (*load)(const std::string& name));
/// @throws GroupError: not linked in; the message lists the engines that are.
const EngineEntry& find_engine(const std::string& name);

}  // namespace syncbn::engines
