// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "syncbn/group.h"

namespace syncbn::environment {

/// The names of Backend's enumerators, in their order.
inline constexpr const char* kBackendNames[] = {"auto", "gloo", "mpi", "simulation"};
static_assert(std::size(kBackendNames) == static_cast<std::size_t>(Backend::simulation) + 1);

inline std::string name_of(Backend backend) { return kBackendNames[static_cast<std::size_t>(backend)]; }

/// The enumerator of a name; none if no backend has this name.
inline std::optional<Backend> backend_named(std::string_view name) {
  for (std::size_t i = 0; i < std::size(kBackendNames); ++i) {
    if (name == kBackendNames[i]) return static_cast<Backend>(i);
  }
  return std::nullopt;
}

}  // namespace syncbn::environment
