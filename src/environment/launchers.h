// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "environment/launch_variables.h"

namespace syncbn::environment {

// Each function reads the variables of one launcher into `env`. The backend is already set, unless the
// function must choose it. All throw a GroupError.

// In launchers_mindspore.cpp: RANK_ID, RANK_SIZE, DEVICE_ID and other variables of MindSpore.
void read_syncbn_run(LaunchVariables& variables, LaunchEnv& env);
void read_msrun(LaunchVariables& variables, LaunchEnv& env);
void read_dry_run(LaunchVariables& variables, LaunchEnv& env);
void read_rank_table_variables(LaunchVariables& variables, LaunchEnv& env);
void read_no_launcher(LaunchVariables& variables, LaunchEnv& env);

// In launchers_cluster.cpp: torchrun, MPI launchers and Slurm.
void read_torchrun(LaunchVariables& variables, LaunchEnv& env);
void read_mpirun(LaunchVariables& variables, LaunchEnv& env);
void read_mpiexec(LaunchVariables& variables, LaunchEnv& env);
void read_srun(LaunchVariables& variables, LaunchEnv& env);

}  // namespace syncbn::environment
