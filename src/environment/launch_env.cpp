// SPDX-License-Identifier: Apache-2.0

// How the launcher of this process is found
//
// Launchers may be nested: syncbn-run in a shell that torchrun has opened, or mpirun in a Slurm allocation.
// Processes inherit variables, so the variables of several launchers may be present. The innermost launcher
// has started this process. It is the first row of kSigns whose variables are set.
//
// Within the launcher's variables a missing variable or a contradiction is an error. Variables of other
// launchers are ignored. RANK_SIZE > 1 without any launcher's variables is an error too: such a process has
// peers and cannot find them.
#include "environment/launch_env.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/timeout.h"
#include "environment/backend_names.h"
#include "environment/launchers.h"
#include "environment/parse.h"
#include "syncbn/error.h"

namespace syncbn::environment {
namespace {

struct Launcher {
  const char* name;                // LaunchEnv::launcher
  const char* title;               // its name in messages
  std::optional<Backend> backend;  // none: read() chooses it
  void (*read)(LaunchVariables& variables, LaunchEnv& env);
};

constexpr Launcher kSyncbnRun{"syncbn-run", "syncbn-run", Backend::gloo, read_syncbn_run};
constexpr Launcher kMsrun{"msrun", "msrun", Backend::gloo, read_msrun};
constexpr Launcher kDryRun{"the dry run", "a dry run", Backend::simulation, read_dry_run};
constexpr Launcher kTorchrun{"torchrun", "torchrun", Backend::gloo, read_torchrun};
constexpr Launcher kMpirun{"mpirun", "mpirun (Open MPI)", Backend::mpi, read_mpirun};
constexpr Launcher kMpiexec{"mpiexec", "mpiexec (MPICH)", Backend::mpi, read_mpiexec};
constexpr Launcher kSrun{"srun", "a Slurm step", std::nullopt, read_srun};
constexpr Launcher kRankTable{"the rank table", "a rank table", Backend::gloo, read_rank_table_variables};
constexpr Launcher kNone{"", "no known launcher", std::nullopt, read_no_launcher};

constexpr const char* kSimulationLevel = "MS_SIMULATION_LEVEL";

// A launcher has started the process if one variable of `any_of` and the variable `with` are set.
struct Sign {
  const Launcher& launcher;
  std::array<const char*, 3> any_of;
  const char* with = nullptr;
};

constexpr Sign kSigns[] = {
    // syncbn-run also sets torchrun's variables, for other libraries.
    {kSyncbnRun, {"SYNCBN_STORE"}},

    {kMsrun, {"MS_ROLE", "MS_SCHED_HOST", "MS_SCHED_PORT"}},

    // With --sim_level syncbn-run and msrun set no variable of the rows above, and msrun sets MS_WORKER_NUM.
    {kDryRun, {"RANK_ID", "RANK_SIZE"}, kSimulationLevel},

    {kMsrun, {"MS_WORKER_NUM"}},

    // TORCHELASTIC_RUN_ID is never set by hand. So mpirun or srun has started torchrun, once per node, and
    // not the other way round.
    {kTorchrun, {"RANK"}, "TORCHELASTIC_RUN_ID"},

    // Before RANK and WORLD_SIZE, which scripts under mpirun set. Before Slurm: on other nodes than the
    // first, a process of mpirun also has the variables of the Slurm step that carries mpirun's daemons.
    {kMpirun, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}},

    // MPICH's mpiexec and related launchers set these in addition to PMI_RANK and PMI_SIZE. Before RANK and
    // before Slurm for the same reasons.
    {kMpiexec, {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"}},

    // Also set by hand. Before Slurm, because scripts in Slurm steps set it.
    {kTorchrun, {"RANK"}},

    // SLURM_PROCID does not count, because a batch script, which is a single process, has it too.
    {kSrun, {"SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"}},

    // Another launcher than MPICH's. srun --mpi=pmi2 sets both in its steps.
    {kMpiexec, {"PMI_RANK", "PMI_SIZE"}},

    // RANK is missing. After Slurm, because batch scripts export WORLD_SIZE.
    {kTorchrun, {"WORLD_SIZE"}},

    // Processes started by hand, MindSpore's former way.
    {kRankTable, {"RANK_TABLE_FILE"}},
};

const Launcher& innermost(const Getenv& getenv) {
  const auto is_set = [&](const char* name) {
    if (name == nullptr) return false;
    const auto value = getenv(name);
    // MindSpore takes a negative level for none.
    return value && (std::string_view(name) != kSimulationLevel || !value->starts_with('-'));
  };
  for (const Sign& sign : kSigns) {
    const bool found = std::any_of(sign.any_of.begin(), sign.any_of.end(), is_set);
    if (found && (sign.with == nullptr || is_set(sign.with))) return sign.launcher;
  }
  return kNone;
}

// None if the launcher decides.
std::optional<Backend> requested_backend(const Getenv& getenv, Backend asked) {
  if (asked == Backend::automatic) {
    const std::string request = getenv("SYNCBN_BACKEND").value_or("auto");
    const auto named = backend_named(request);
    if (!named) {
      throw GroupError(fmt::format("SYNCBN_BACKEND: '{}', expected auto, gloo, mpi or simulation", request));
    }
    asked = *named;
  }
  return asked == Backend::automatic ? std::nullopt : std::optional(asked);
}

std::chrono::milliseconds read_seconds(const char* name, const std::string& value) {
  using Seconds = std::chrono::duration<double>;
  constexpr double kLow = Seconds(base::kShortestTimeout).count();
  constexpr auto kHigh = std::chrono::duration_cast<std::chrono::seconds>(base::kLongestTimeout).count();
  const auto number = parse<double>(value);
  if (!number || !(*number >= kLow && *number <= static_cast<double>(kHigh)))
    throw GroupError(
        fmt::format("{}: '{}', expected a number of seconds in [{}, {}]", name, value, kLow, kHigh));
  return std::chrono::milliseconds(static_cast<std::int64_t>(*number * 1000));
}

}  // namespace

std::optional<std::string> process_env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

LaunchEnv read_launch_env(const Getenv& getenv, Backend asked) {
  const std::optional<Backend> request = requested_backend(getenv, asked);
  const Launcher& launcher = innermost(getenv);
  LaunchVariables variables(launcher.title, getenv);
  LaunchEnv env;
  env.launcher = launcher.name;
  env.backend = request ? request : launcher.backend;
  launcher.read(variables, env);
  env.world.token = getenv("SYNCBN_TOKEN").value_or("");
  env.world.shared_memory = read_shared_memory(getenv);
  if (const auto value = getenv("MS_TOPO_TIMEOUT")) {
    const bool unlimited = parse<double>(*value).value_or(0) < 0;
    env.rendezvous_timeout = unlimited ? base::kLongestTimeout : read_seconds("MS_TOPO_TIMEOUT", *value);
  }
  if (env.world.size == 1) env.backend.reset();
  return env;
}

std::chrono::milliseconds read_timeout(const Getenv& getenv) {
  constexpr std::chrono::seconds kDefault{300};
  const auto value = getenv("SYNCBN_TIMEOUT_S");
  return value ? read_seconds("SYNCBN_TIMEOUT_S", *value) : kDefault;
}

base::TimeLimit call_limit(const std::optional<std::chrono::milliseconds>& given,
                           const std::string& argument) {
  return given ? base::TimeLimit{*given, argument} : base::TimeLimit{read_timeout(), "SYNCBN_TIMEOUT_S"};
}

bool read_shared_memory(const Getenv& getenv) {
  const std::string value = getenv("SYNCBN_SHARED_MEMORY").value_or("1");
  if (value != "0" && value != "1")
    throw GroupError(fmt::format("SYNCBN_SHARED_MEMORY: '{}', expected 0 or 1", value));
  return value == "1";
}

}  // namespace syncbn::environment
