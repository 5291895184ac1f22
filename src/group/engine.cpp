#include "group/engine.h"

#include <fmt/format.h>

#include <mutex>

#include "syncbn/error.h"

namespace syncbn::group {
namespace {

struct Engines {
  std::mutex mutex;
  std::vector<const EngineEntry*> entries;
};

Engines& engines() {
  static Engines all;  // made by the first engine that registers, while libraries are being loaded
  return all;
}

}  // namespace

void register_engine(const EngineEntry& entry) {
  const std::lock_guard lock(engines().mutex);
  engines().entries.push_back(&entry);
}

const EngineEntry& find_engine(const std::string& name) {
  const std::lock_guard lock(engines().mutex);
  std::string names;
  for (const EngineEntry* entry : engines().entries) {
    if (name == entry->name) return *entry;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", entry->name);
  }
  throw GroupError(
      fmt::format("engine '{}' is not linked into this program, which has {}; link with syncbn::{}", name,
                  names.empty() ? "none" : names, name));
}

}  // namespace syncbn::group
