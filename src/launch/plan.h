#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/command.h"
#include "launch/options.h"

namespace syncbn::launch {

/// What one of this node's workers is started with, whatever the other nodes bring.
struct WorkerSeat {
  std::string device;       ///< DEVICE_ID.
  std::optional<int> rank;  ///< Where a rank table or a dry run says it; else its node's place does.
  std::vector<int> cores;   ///< Empty: all.
};

/// What one launcher knows of its job before it has met those of the other nodes: everything but ranks.
struct JobPlan {
  Options options;
  Command command;
  int store_port = 0;  ///< With options.master_addr, where launchers and workers meet.
  std::string token;
  int restart = 0;  ///< How often the job was restarted before.
  std::optional<std::chrono::seconds>
      cluster_time_out;              ///< none: no limit; a single worker has nobody to join.
  std::vector<WorkerSeat> seats;     ///< One for each of options.local_worker_num.
  std::string rank_table_digest;     ///< Equal where the nodes' rank tables are; empty: no table.
  std::string rank_table_server;     ///< server_id of this node in it.
  std::vector<std::string> notes;    ///< For people, before the job starts.
  std::filesystem::path log_dir;     ///< Absolute.
  std::string log_name;              ///< In it: log_name_<rank>.log.
  std::filesystem::path job_log;     ///< Where a job in the background tells its end.
  std::string scheduler_host;        ///< With options.master_port, MindSpore's scheduler; numeric.
  std::vector<int> scheduler_cores;  ///< Empty: all.

  /// The secret of this start. Each has one of its own: who belongs to the last one can't join.
  std::string start_token() const;
  /// For messages: "/logs/worker_<rank>.log", "/logs/worker_<rank>.restart_2.log".
  std::string log_names() const;
  bool several_nodes() const { return options.local_worker_num < options.worker_num && !dry_run(); }
  /// One worker, which meets nobody: there is no store.
  bool dry_run() const { return options.sim_level >= 0; }
  /// Whether the workers are expected to join the store. Where MindSpore's scheduler runs, it watches them.
  bool expects_joins() const { return options.worker_num > 1 && !dry_run() && !options.ms_scheduler; }
};

/// @throws UsageError an option, SYNCBN_PORT or a rank table can't be met; std::system_error
JobPlan make_plan(const Options& options);

/// Where this node stands in its job.
struct Placement {
  int node = 0;  ///< From 0.
  int node_count = 1;
  int first_rank = 0;  ///< Rank of this node's first worker; the others follow. A rank table overrides it.
};

/// The rank in a WorkerPlan of MindSpore's scheduler, which is no worker.
inline constexpr int kSchedulerRank = -1;

struct WorkerPlan {
  int rank;
  std::filesystem::path log;             ///< Absolute.
  std::vector<std::string> environment;  ///< NAME=value, complete.
  std::vector<int> cores;                ///< It may run on; empty: all.
};

/// This node's workers.
std::vector<WorkerPlan> plan_workers(const JobPlan& plan, const Placement& placement);
/// MindSpore's scheduler, which belongs on the node that serves the store; none: the job has none.
std::optional<WorkerPlan> plan_scheduler(const JobPlan& plan);

/// The log of one of this node's workers, in this start.
std::filesystem::path worker_log(const JobPlan& plan, int rank);

}  // namespace syncbn::launch
