// SPDX-License-Identifier: Apache-2.0

// Launchers of clusters: torchrun, MPI launchers and Slurm.
#include "environment/launchers.h"

#include <fmt/core.h>

#include "environment/slurm_lists.h"

namespace syncbn::environment {
namespace {

// One statement a variable: an error lists the variables in the order in which they were read.
void read_local(LaunchVariables& variables, LaunchEnv& env, const char* rank_name, const char* size_name) {
  const auto rank = variables.rank(rank_name);
  const auto size = variables.size(size_name);
  set_local(variables, env, rank, size);
}

// An MPI launcher sets no address for the rendezvous. With engine gloo, MASTER_ADDR and MASTER_PORT must be
// set by hand.
void mpi_launcher(LaunchVariables& variables, LaunchEnv& env, const char* rank_name, const char* size_name,
                  const char* local_rank_name, const char* local_size_name) {
  const auto rank = variables.rank(rank_name);
  const auto size = variables.size(size_name);
  variables.require(rank, rank_name);
  variables.require(size, size_name);
  variables.check_complete();
  set_rank(variables, env, rank, *size);
  read_local(variables, env, local_rank_name, local_size_name);
  if (needs_rendezvous(env)) set_rendezvous(variables, env, "MASTER_ADDR", "MASTER_PORT");
}

// The port of a Slurm step. Steps that run at the same time get different ports, and so do jobs with
// neighbouring numbers. The ports lie below the range from which Linux takes source ports.
int step_port(std::uint64_t job, std::uint64_t step) {
  return static_cast<int>(10000 + (job * 64 + step) % 20000);
}

}  // namespace

void read_torchrun(LaunchVariables& variables, LaunchEnv& env) {
  const auto rank = variables.rank("RANK");
  const auto size = variables.size("WORLD_SIZE");
  variables.require(rank, "RANK");
  variables.require(size, "WORLD_SIZE");
  variables.check_complete();
  set_rank(variables, env, rank, *size);
  read_local(variables, env, "LOCAL_RANK", "LOCAL_WORLD_SIZE");
  set_rendezvous(variables, env, "MASTER_ADDR", "MASTER_PORT");
}

void read_mpirun(LaunchVariables& variables, LaunchEnv& env) {
  mpi_launcher(variables, env, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
               "OMPI_COMM_WORLD_LOCAL_SIZE");
}

void read_mpiexec(LaunchVariables& variables, LaunchEnv& env) {
  mpi_launcher(variables, env, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
}

void read_srun(LaunchVariables& variables, LaunchEnv& env) {
  const auto rank = variables.rank("SLURM_PROCID");
  const auto step_size = variables.size("SLURM_STEP_NUM_TASKS");
  const auto size = step_size ? step_size : variables.size("SLURM_NTASKS");
  const std::string nodes = variables.require(variables.text("SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST");
  variables.require(rank, "SLURM_PROCID");
  variables.require(size, "SLURM_STEP_NUM_TASKS");
  variables.check_complete();
  set_rank(variables, env, rank, *size);
  const auto node = variables.rank("SLURM_NODEID");
  const std::string tasks = variables.text("SLURM_STEP_TASKS_PER_NODE").value_or("");
  set_local(variables, env, variables.rank("SLURM_LOCALID"), tasks_of_node(tasks, node.value_or(0)));
  const bool has_pmi = variables.text("PMI_RANK") || variables.text("PMIX_RANK");
  if (!env.backend) env.backend = has_pmi ? Backend::mpi : Backend::gloo;
  if (!needs_rendezvous(env)) return;
  const auto host = variables.text("MASTER_ADDR");
  const auto master_port = variables.port("MASTER_PORT");
  const auto own_port = variables.port("SYNCBN_PORT");
  const auto first = first_node(nodes);
  if (!first)
    variables.fail(fmt::format("SLURM_STEP_NODELIST: '{}', expected a list such as n[01-03,7],m2", nodes));
  const bool by_hand = host && master_port;
  env.world.host = by_hand ? *host : *first;
  env.world.serve = served_by_rank_0(*rank);
  if (own_port) {
    env.world.port = *own_port;
    env.world.port_setting = "SYNCBN_PORT";
  } else if (by_hand) {
    env.world.port = port_above(variables, "MASTER_PORT", *master_port);
    env.world.port_setting = "MASTER_PORT + 1, or SYNCBN_PORT";
  } else {
    const auto job = variables.id("SLURM_JOB_ID");
    const auto step = variables.id("SLURM_STEP_ID");
    env.world.port =
        step_port(variables.require(job, "SLURM_JOB_ID"), variables.require(step, "SLURM_STEP_ID"));
    env.world.port_setting = "of SLURM_JOB_ID and SLURM_STEP_ID, or SYNCBN_PORT";
    variables.check_complete();
  }
}

}  // namespace syncbn::environment
