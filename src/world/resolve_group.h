// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string_view>

#include "group/group.h"

namespace syncbn::world {

/// The group that a name means on this thread, for a layer or a sum. Without a world the name of the world
/// means a group of this rank alone.
/// @throws GroupError if the name is unknown; or if there is no world and the name is another one, or the
/// launcher's environment has more than one rank
std::shared_ptr<Group> resolve_group(std::string_view name);

/// Called by init(). If the process has used the group of this rank alone and has now joined a larger world,
/// the layers that hold this group get an error at their next call.
void retire_lone_group(int world_size);

}  // namespace syncbn::world
