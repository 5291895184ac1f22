// SPDX-License-Identifier: Apache-2.0
#include "launch/command.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>

#include "launch/exit_codes.h"

namespace syncbn::launch {
namespace {

namespace fs = std::filesystem;

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_executable(const fs::path& path) { return is_file(path) && access(path.c_str(), X_OK) == 0; }

std::optional<std::string> find_in_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path candidate = fs::path(folder.empty() ? "." : folder) / name;
    if (is_executable(candidate)) return candidate.string();
  }
  return std::nullopt;
}

std::string find_executable(const std::string& name) {
  const bool bare = name.find('/') == std::string::npos;
  if (bare) {
    if (const auto found = find_in_path(name)) return *found;
  }
  if (is_executable(name)) return bare ? "./" + name : name;
  if (is_file(name))
    throw UsageError(fmt::format(
        "task script '{}' is not executable; use chmod +x, or put its interpreter in front: bash {}", name,
        name));
  throw UsageError(fmt::format("task script '{}' does not exist{}", name, bare ? ", here or in PATH" : ""));
}

}  // namespace

Command resolve_command(const std::vector<std::string>& task) {
  Command command{"", task};
  if (task[0].ends_with(".py")) {
    if (!is_file(task[0])) throw UsageError(fmt::format("task script '{}' does not exist", task[0]));
    command.arguments.insert(command.arguments.begin(), "python3");
  }
  command.file = find_executable(command.arguments[0]);
  return command;
}

}  // namespace syncbn::launch
