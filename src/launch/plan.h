#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/command.h"
#include "launch/options.h"

namespace syncbn::launch {

struct WorkerPlan {
  int rank;
  std::filesystem::path log;             ///< Absolute.
  std::vector<std::string> environment;  ///< NAME=value, complete.
};

/// Everything a job is, decided before its first process starts.
struct JobPlan {
  Command command;
  std::vector<WorkerPlan> workers;  ///< Those of this machine.
  std::string store_host;           ///< Where the workers find each other; served by the launcher.
  int store_port = 0;
  std::string token;
  std::optional<std::chrono::seconds>
      cluster_time_out;           ///< none: no limit; a single worker has nobody to join.
  std::filesystem::path log_dir;  ///< Absolute.
  std::string log_names;          ///< For messages: "/logs/worker_<rank>.log".
  std::filesystem::path job_log;  ///< Where a job in the background tells its end.
};

/// @throws UsageError an option or SYNCBN_PORT can't be met; std::system_error
JobPlan make_plan(const Options& options);

}  // namespace syncbn::launch
