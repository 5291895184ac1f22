// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "base/timeout.h"
#include "environment/world_spec.h"
#include "syncbn/group.h"

namespace syncbn::environment {

/// This process as the environment of the innermost launcher describes it.
struct LaunchEnv {
  /// "syncbn-run", "msrun", "torchrun", "mpirun", "mpiexec" or "srun"; "the dry run" or "the rank table" for
  /// variables set by hand; "" without a launcher.
  std::string launcher;
  std::optional<Backend> backend;  ///< Never automatic. None for a world of one rank.
  WorldSpec world;
  int local_rank = 0;  ///< The launcher's value. After init() the engine has the exact value.
  int local_size = 1;  ///< As local_rank.
  /// The process is msrun's scheduler. It has no rank, and init() exits with code 0.
  bool scheduler = false;
  /// MS_TOPO_TIMEOUT; none: the timeout of calls.
  std::optional<std::chrono::milliseconds> rendezvous_timeout;
};

/// Returns the value of an environment variable; none if it is not set.
using Getenv = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> process_env(const char* name);

/// Reads the environment. `asked` is the engine that the program requests. If it is automatic, SYNCBN_BACKEND
/// or the launcher chooses the engine. In a dry run (MS_SIMULATION_LEVEL) `asked` has no effect, because a
/// dry run starts one process alone.
/// @throws GroupError with all variables that were found and that are missing, if the launcher's variables
/// contradict each other or one is missing
LaunchEnv read_launch_env(const Getenv& getenv = process_env, Backend asked = Backend::automatic);

/// SYNCBN_TIMEOUT_S, or 300 s if it is not set.
/// @throws GroupError if the value is not a number of seconds in [0.001, 1,000,000,000]
std::chrono::milliseconds read_timeout(const Getenv& getenv = process_env);
/// The limit of a call: `given`, which `argument` has set, else read_timeout() of this process.
base::TimeLimit call_limit(const std::optional<std::chrono::milliseconds>& given = std::nullopt,
                           const std::string& argument = "");

/// SYNCBN_SHARED_MEMORY: whether ranks of one host may sum in shared memory. True if it is not set.
/// @throws GroupError if the value is neither 0 nor 1
bool read_shared_memory(const Getenv& getenv = process_env);

}  // namespace syncbn::environment
