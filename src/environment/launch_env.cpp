// SPDX-License-Identifier: Apache-2.0

// How the launcher of this process is found
//
// Launchers may be nested: syncbn-run in a shell that torchrun has opened, or mpirun in a Slurm allocation.
// Processes inherit variables, so the variables of several launchers may be present. The innermost launcher
// has started this process. It is the first row of this list whose variables are set:
//
//   syncbn-run   SYNCBN_STORE                 syncbn-run also sets torchrun's variables, for other libraries
//   msrun        MS_ROLE, MS_SCHED_HOST or MS_SCHED_PORT
//   a dry run    MS_SIMULATION_LEVEL >= 0, and RANK_ID or RANK_SIZE: syncbn-run and msrun with --sim_level
//   set no
//                variable of the rows above, and msrun also sets MS_WORKER_NUM
//   msrun        MS_WORKER_NUM
//   torchrun     TORCHELASTIC_RUN_ID and RANK  The first is never set by hand. So torchrun was started by
//   mpirun or
//                srun, once per node, and not the other way round
//   mpirun       OMPI_COMM_WORLD_RANK or OMPI_COMM_WORLD_SIZE  Before RANK and WORLD_SIZE, which scripts
//   under
//                mpirun set. Before Slurm: on other nodes than the first, a process of mpirun also has the
//                variables of the Slurm step that carries mpirun's daemons
//   mpiexec      MPI_LOCALRANKID or MPI_LOCALNRANKS, which MPICH's mpiexec and related launchers set in
//   addition to
//                PMI_RANK and PMI_SIZE. Before RANK and before Slurm for the same reasons
//   torchrun     RANK                         Also set by hand. Before Slurm, because scripts in Slurm steps
//   set it srun         SLURM_STEP_ID, SLURM_STEP_NODELIST or SLURM_STEP_NUM_TASKS. SLURM_PROCID does not
//   count, because a
//                batch script, which is a single process, has it too
//   mpiexec      PMI_RANK or PMI_SIZE         Another launcher than MPICH's. srun --mpi=pmi2 sets both in its
//   steps torchrun     WORLD_SIZE                   RANK is missing. After Slurm, because batch scripts
//   export WORLD_SIZE rank table   RANK_TABLE_FILE              Processes started by hand, MindSpore's former
//   way
//
// Within the launcher's variables a missing variable or a contradiction is an error. Variables of other
// launchers are ignored. RANK_SIZE > 1 without any launcher's variables is an error too: such a process has
// peers and cannot find them.
#include "environment/launch_env.h"

#include <fmt/core.h>

#include <cstdint>
#include <cstdlib>
#include <initializer_list>

#include "base/timeout.h"
#include "environment/launch_families.h"
#include "environment/parse.h"
#include "syncbn/error.h"

namespace syncbn::environment {
namespace {

bool any(const Getenv& getenv, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (getenv(name)) return true;
  }
  return false;
}

struct Launcher {
  const char* name;     // LaunchEnv::launcher
  const char* title;    // its name in messages
  const char* backend;  // "": read() chooses it
  void (*read)(LaunchVariables& variables, LaunchEnv& env);
};

Launcher innermost(const Getenv& getenv) {
  const Launcher by_msrun{"msrun", "msrun", "gloo", read_msrun};
  const Launcher by_torchrun{"torchrun", "torchrun", "gloo", read_torchrun};
  const Launcher by_mpiexec{"mpiexec", "mpiexec (MPICH)", "mpi", read_mpiexec};
  const bool rank = any(getenv, {"RANK"});
  if (any(getenv, {"SYNCBN_STORE"})) return {"syncbn-run", "syncbn-run", "gloo", read_syncbn_run};
  if (any(getenv, {"MS_ROLE", "MS_SCHED_HOST", "MS_SCHED_PORT"})) return by_msrun;
  if (!getenv("MS_SIMULATION_LEVEL").value_or("-").starts_with('-') && any(getenv, {"RANK_ID", "RANK_SIZE"}))
    return {"the dry run", "a dry run", "simulation", read_dry_run};
  if (any(getenv, {"MS_WORKER_NUM"})) return by_msrun;
  if (rank && any(getenv, {"TORCHELASTIC_RUN_ID"})) return by_torchrun;
  if (any(getenv, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}))
    return {"mpirun", "mpirun (Open MPI)", "mpi", read_mpirun};
  if (any(getenv, {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"})) return by_mpiexec;
  if (rank) return by_torchrun;
  if (any(getenv, {"SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"}))
    return {"srun", "a Slurm step", "", read_srun};
  if (any(getenv, {"PMI_RANK", "PMI_SIZE"})) return by_mpiexec;
  if (any(getenv, {"WORLD_SIZE"})) return by_torchrun;
  if (any(getenv, {"RANK_TABLE_FILE"}))
    return {"the rank table", "a rank table", "gloo", read_rank_table_variables};
  return {"", "no known launcher", "", read_no_launcher};
}

// "" if the launcher decides.
std::string requested_backend(const Getenv& getenv, Backend asked) {
  if (asked == Backend::gloo) return "gloo";
  if (asked == Backend::mpi) return "mpi";
  if (asked == Backend::simulation) return "simulation";
  const std::string request = getenv("SYNCBN_BACKEND").value_or("auto");
  if (request == "auto") return "";
  if (request == "gloo" || request == "mpi" || request == "simulation") return request;
  throw GroupError(fmt::format("SYNCBN_BACKEND: '{}', expected auto, gloo, mpi or simulation", request));
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
  const std::string request = requested_backend(getenv, asked);
  const Launcher launcher = innermost(getenv);
  LaunchVariables variables(launcher.title, getenv);
  LaunchEnv env;
  env.launcher = launcher.name;
  env.backend = request.empty() ? launcher.backend : request;
  launcher.read(variables, env);
  env.world.token = getenv("SYNCBN_TOKEN").value_or("");
  env.world.shared_memory = read_shared_memory(getenv);
  if (const auto value = getenv("MS_TOPO_TIMEOUT")) {
    const bool unlimited = parse<double>(*value).value_or(0) < 0;
    env.rendezvous_timeout = unlimited ? base::kLongestTimeout : read_seconds("MS_TOPO_TIMEOUT", *value);
  }
  if (env.world.size == 1) env.backend = "";
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
