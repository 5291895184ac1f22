#include "engines/entry.h"

#include <fmt/format.h>

#include <mutex>

#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

struct Engines {
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

Engines& linked() {
  static Engines all;  // made by the first engine that registers, while libraries are being loaded
  return all;
}

}  // namespace

void register_engine(const EngineEntry& entry) {
  const std::lock_guard lock(linked().mutex);
  linked().entries.push_back(&entry);
}

void set_engine_loader(void (*load)(const std::string& name)) { linked().load = load; }

const EngineEntry& find_engine(const std::string& name) {
  if (const EngineEntry* entry = linked().find(name)) return *entry;
  if (linked().load != nullptr) {
    linked().load(name);
    if (const EngineEntry* entry = linked().find(name)) return *entry;
  }
  const std::lock_guard lock(linked().mutex);
  std::string names;
  bool has_gloo = false;
  for (const EngineEntry* entry : linked().entries) {
    has_gloo = has_gloo || entry->name == std::string_view("gloo");
    names += fmt::format("{}{}", names.empty() ? "" : ", ", entry->name);
  }
  // An MPI's launcher can start a program that has no MPI.
  const bool gloo_can = has_gloo && name == "mpi";
  throw GroupError(
      fmt::format("engine '{}' is not linked into this program, which has {}; link with syncbn::{}{}", name,
                  names.empty() ? "none" : names, name == "mpi" ? "mpi or syncbn::mpich" : name,
                  gloo_can ? ", or set SYNCBN_BACKEND=gloo and, outside Slurm, MASTER_ADDR and MASTER_PORT "
                             "(rank 0's host, and a port such that the one above it is free)"
                           : ""));
}

}  // namespace syncbn::engines
