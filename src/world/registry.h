#pragma once

#include <memory>
#include <string_view>

#include "group/group.h"

namespace syncbn::world {

/// The group that a name means on this thread, for a layer or a sum. Without init, the world's name is a
/// group of this rank alone. @throws GroupError: unknown name; or not initialised, and another name was given
/// or the launcher's environment names more ranks, with the request to call init()
std::shared_ptr<Group> resolve_group(std::string_view name);

}  // namespace syncbn::world
