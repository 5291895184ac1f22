#pragma once

#include <optional>
#include <string>
#include <string_view>

/// The short forms in which Slurm writes lists into variables.
namespace syncbn::environment {

/// The first name of a node list: "n01" of "n[01-03,7],m2". None: not a node list.
std::optional<std::string> first_node(std::string_view nodes);

/// The number of tasks of node `node`, from 0: 2 of "3,2(x4),1" for nodes 1 to 4. None: no such node, or not
/// such a list.
std::optional<int> tasks_of_node(std::string_view tasks, int node);

}  // namespace syncbn::environment
