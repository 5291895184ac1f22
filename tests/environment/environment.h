// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <map>
#include <optional>
#include <string>

namespace syncbn::testing {

using Variables = std::map<std::string, std::string>;

/// Gives this process the environment of a launcher, with all other launchers' variables unset, as long as it
/// lives.
class Environment {
 public:
  explicit Environment(const Variables& variables) {
    for (const char* name : {"SYNCBN_STORE",
                             "SYNCBN_PORT",
                             "SYNCBN_TOKEN",
                             "SYNCBN_BACKEND",
                             "SYNCBN_TIMEOUT_S",
                             "MS_ROLE",
                             "MS_WORKER_NUM",
                             "MS_SCHED_HOST",
                             "MS_SCHED_PORT",
                             "MS_TOPO_TIMEOUT",
                             "RANK_ID",
                             "RANK_SIZE",
                             "DEVICE_ID",
                             "LOCAL_RANK_SIZE",
                             "RANK",
                             "WORLD_SIZE",
                             "LOCAL_RANK",
                             "LOCAL_WORLD_SIZE",
                             "MASTER_ADDR",
                             "MASTER_PORT",
                             "OMPI_COMM_WORLD_RANK",
                             "OMPI_COMM_WORLD_SIZE",
                             "OMPI_COMM_WORLD_LOCAL_RANK",
                             "OMPI_COMM_WORLD_LOCAL_SIZE",
                             "TORCHELASTIC_RUN_ID",
                             "MS_SIMULATION_LEVEL",
                             "RANK_TABLE_FILE",
                             "PMI_RANK",
                             "PMI_SIZE",
                             "MPI_LOCALRANKID",
                             "MPI_LOCALNRANKS",
                             "SLURM_STEP_ID",
                             "SLURM_STEP_NODELIST",
                             "SLURM_STEP_NUM_TASKS"}) {
      set(name, std::nullopt);
    }
    for (const auto& [name, value] : variables) set(name, value);
  }
  ~Environment() {
    for (const auto& [name, value] : before_) change(name, value);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  void set(const std::string& name, const std::optional<std::string>& value) {
    const char* old = std::getenv(name.c_str());
    before_.emplace(name, old == nullptr ? std::nullopt : std::optional<std::string>(old));
    change(name, value);
  }
  static void change(const std::string& name, const std::optional<std::string>& value) {
    if (value) {
      setenv(name.c_str(), value->c_str(), 1);
    } else {
      unsetenv(name.c_str());
    }
  }

  std::map<std::string, std::optional<std::string>> before_;
};

}  // namespace syncbn::testing
