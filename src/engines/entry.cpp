// SPDX-License-Identifier: Apache-2.0
#include "engines/entry.h"

#include <fmt/core.h>

#include <mutex>

#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<const EngineEntry*> entries;
  void (*load)(const std::string&) = nullptr;

  const EngineEntry* find(const std::string& name) {
    const std::lock_guard lock(mutex);
    for (const EngineEntry* entry : entries) {
      if (name == entry->name) return entry;
    }
    return nullptr;
  }
};

Registry& registry() {
  static Registry all;  // created when the first engine registers, while libraries are loaded
  return all;
}

}  // namespace

void register_engine(const EngineEntry& entry) {
  const std::lock_guard lock(registry().mutex);
  registry().entries.push_back(&entry);
}

void set_engine_loader(void (*load)(const std::string& name)) { registry().load = load; }

const EngineEntry& find_engine(const std::string& name) {
  if (const EngineEntry* entry = registry().find(name)) return *entry;
  if (registry().load != nullptr) {
    registry().load(name);
    if (const EngineEntry* entry = registry().find(name)) return *entry;
  }
  const std::lock_guard lock(registry().mutex);
  std::string names;
  bool has_gloo = false;
  for (const EngineEntry* entry : registry().entries) {
    has_gloo = has_gloo || entry->name == std::string_view("gloo");
    names += fmt::format("{}{}", names.empty() ? "" : ", ", entry->name);
  }
  // An MPI launcher can start a program without MPI.
  const bool suggest_gloo = has_gloo && name == "mpi";
  throw GroupError(fmt::format(
      "engine '{}' is not linked into this program, which has {}; link with syncbn::{}{}", name,
      names.empty() ? "none" : names, name == "mpi" ? "mpi or syncbn::mpich" : name,
      suggest_gloo ? ", or set SYNCBN_BACKEND=gloo and, outside Slurm, MASTER_ADDR and MASTER_PORT "
                     "(rank 0's host, and a port such that the one above it is free)"
                   : ""));
}

}  // namespace syncbn::engines
