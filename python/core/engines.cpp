// SPDX-License-Identifier: Apache-2.0
#include "engines.h"

#include <dlfcn.h>
#include <fmt/core.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "engines/entry.h"
#include "syncbn/error.h"

namespace syncbn::python {
namespace {

std::filesystem::path package_folder() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&package_folder), &info);
  return std::filesystem::path(info.dli_fname).parent_path();
}

// Component for an engine's name. For mpi, if the package has both Open MPI and MPICH, the component of the
// launcher that started this process.
std::string component_of(const std::string& engine) {
  const bool mpich = std::getenv("PMI_SIZE") != nullptr && std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr;
  return engine == "mpi" && mpich && std::filesystem::exists(package_folder() / "engine_mpich.so") ? "mpich"
                                                                                                   : engine;
}

// RTLD_GLOBAL: Open MPI loads plugins that look up its symbols among the global symbols.
void load(const std::string& engine) {
  const std::filesystem::path library = package_folder() / fmt::format("engine_{}.so", component_of(engine));
  if (!std::filesystem::exists(library)) {
    throw GroupError(fmt::format("engine '{}' is not part of this build of the package, which lacks {}",
                                 engine, library.string()));
  }
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) return;
  throw GroupError(
      fmt::format("engine '{}' can't be loaded; is its library installed? {}", engine, dlerror()));
}

}  // namespace

void load_engines_on_demand() { engines::set_engine_loader(load); }

}  // namespace syncbn::python
