// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace syncbn::launch {

/// A program to execute.
struct Command {
  std::string file;                    ///< Path of the executable.
  std::vector<std::string> arguments;  ///< The program's name first.
};

/// The command that runs the task: python3 and a .py file, or the task itself. A name without '/' is looked
/// up in PATH, then in the current directory. @throws UsageError the file does not exist or can't be executed
Command resolve_command(const std::vector<std::string>& task);

}  // namespace syncbn::launch
