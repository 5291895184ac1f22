#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/command.h"
#include "launch/options.h"

namespace syncbn::launch {

/// What one launcher knows of its job before it has met those of the other nodes: everything but ranks.
struct JobPlan {
  Options options;
  Command command;
  int store_port = 0;  ///< With options.master_addr, where launchers and workers meet.
  std::string token;
  std::optional<std::chrono::seconds>
      cluster_time_out;           ///< none: no limit; a single worker has nobody to join.
  std::filesystem::path log_dir;  ///< Absolute.
  std::string log_names;          ///< For messages: "/logs/worker_<rank>.log".
  std::filesystem::path job_log;  ///< Where a job in the background tells its end.

  bool several_nodes() const { return options.local_worker_num < options.worker_num; }
};

/// @throws UsageError an option or SYNCBN_PORT can't be met; std::system_error
JobPlan make_plan(const Options& options);

/// Where this node stands in its job.
struct Placement {
  int node = 0;  ///< From 0.
  int node_count = 1;
  int first_rank = 0;  ///< Rank of this node's first worker; the others follow.
};

struct WorkerPlan {
  int rank;
  std::filesystem::path log;             ///< Absolute.
  std::vector<std::string> environment;  ///< NAME=value, complete.
};

/// This node's workers.
std::vector<WorkerPlan> plan_workers(const JobPlan& plan, const Placement& placement);

}  // namespace syncbn::launch
