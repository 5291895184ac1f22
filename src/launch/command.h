#pragma once

#include <string>
#include <vector>

namespace syncbn::launch {

/// A program to execute.
struct Command {
  std::string file;                    ///< Path of the executable.
  std::vector<std::string> arguments;  ///< The program's name first.
};

/// What runs the task: python3 in front of a .py file, everything else as it is. A name without '/' is looked
/// up in PATH, then in the current directory. @throws UsageError where there is no such file, or it can't be
/// executed.
Command resolve_command(const std::vector<std::string>& task);

}  // namespace syncbn::launch
