// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

/// The short forms of lists in Slurm's variables.
namespace syncbn::environment {

/// The first name of a node list: "n01" for "n[01-03,7],m2". None if the text is not a node list.
std::optional<std::string> first_node(std::string_view nodes);

/// The number of tasks on node number `node`, from 0. For "3,2(x4),1" it is 2 on the nodes 1 to 4. None if
/// there is no such node or the text is not such a list.
std::optional<int> tasks_of_node(std::string_view tasks, int node);

}  // namespace syncbn::environment
