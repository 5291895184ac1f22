#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "environment/world_spec.h"
#include "syncbn/group.h"

namespace syncbn::environment {

/// What the innermost launcher's environment says of this process.
struct LaunchEnv {
  /// "syncbn-run", "msrun", "torchrun", "mpirun", "mpiexec", "srun"; "the dry run", "the rank table" by hand;
  /// "" where there is none.
  std::string launcher;
  std::string backend;  ///< "gloo", "mpi" or "simulation"; "" for a world of one.
  WorldSpec world;      ///< rank, size, rendezvous.
  int local_rank = 0;   ///< Where the launcher says it; the engine knows better after init.
  int local_size = 1;
  bool scheduler = false;  ///< msrun's scheduler: no rank, init() ends it with exit code 0.
  std::optional<std::chrono::milliseconds> rendezvous_timeout;  ///< MS_TOPO_TIMEOUT; none: as every call's.
};

/// Looks a variable up; none where it is not set.
using Getenv = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> process_env(const char* name);

/// `asked` is the engine that the program wants; automatic: SYNCBN_BACKEND, else the launcher's own.
/// `asked` in a dry run (MS_SIMULATION_LEVEL) is not heard: it starts one process alone.
/// @throws GroupError where the variables of one family contradict each other or one is missing: the message
/// lists what was found and what is missing.
LaunchEnv read_launch_env(const Getenv& getenv = process_env, Backend asked = Backend::automatic);

/// 31 years, far from the clock's end.
inline constexpr std::chrono::seconds kLongestTimeout{1'000'000'000};

/// SYNCBN_TIMEOUT_S, 300 s where it is not set. @throws GroupError not a positive number of seconds
std::chrono::milliseconds read_timeout(const Getenv& getenv = process_env);

}  // namespace syncbn::environment
