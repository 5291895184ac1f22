// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "launch/command.h"
#include "launch/options.h"

namespace syncbn::launch {

/// Settings of one worker of this node that do not depend on the other nodes.
struct WorkerSlot {
  std::string device;       ///< DEVICE_ID.
  std::optional<int> rank;  ///< From a rank table or a dry run; otherwise the node's place decides.
  std::vector<int> cores;   ///< Empty: all.
};

/// Everything that a launcher knows of its job before the launchers of the other nodes arrive. Ranks are
/// missing.
struct JobPlan {
  Options options;
  Command command;
  int store_port = 0;  ///< With options.master_addr, the address of the store.
  /// True if the command and SYNCBN_PORT name no port, on a single node: options.master_port and store_port
  /// are then the first of the pairs that the launcher tries.
  bool takes_free_ports = false;
  std::string token;
  int restart = 0;  ///< Number of restarts so far.
  /// None: no limit. A single worker has no peers to join.
  std::optional<std::chrono::seconds> cluster_time_out;
  std::vector<WorkerSlot> slots;   ///< options.local_worker_num of them.
  std::string rank_table_digest;   ///< Equal if the nodes' rank tables are equal; empty: no table.
  std::string rank_table_server;   ///< server_id of this node in its rank table.
  std::vector<std::string> notes;  ///< Shown to people before the job starts.
  std::filesystem::path log_dir;   ///< Absolute.
  std::string log_name;            ///< The logs in log_dir are log_name_<rank>.log.
  std::filesystem::path job_log;   ///< The log in which a job in the background reports its end.
  std::string scheduler_host;  ///< Numeric address of MindSpore's scheduler; its port is options.master_port.
  std::vector<int> scheduler_cores;  ///< Empty: all.

  /// The secret of this start. Every start has a different one, so processes of the previous start can't
  /// join.
  std::string start_token() const;
  /// The logs in messages: "/logs/worker_<rank>.log", "/logs/worker_<rank>.restart_2.log".
  std::string log_names() const;
  bool several_nodes() const { return options.local_worker_num < options.worker_num && !dry_run(); }
  /// A dry run has one worker and no store.
  bool dry_run() const { return options.sim_level >= 0; }
  /// True if the workers are expected to join the store. MindSpore's scheduler watches them itself if it
  /// runs.
  bool expects_joins() const { return options.worker_num > 1 && !dry_run() && !options.ms_scheduler; }
};

/// @throws UsageError an option, SYNCBN_PORT or a rank table is wrong for this machine; std::system_error
JobPlan make_plan(const Options& options);

/// Reserves the names of the logs of a job on one node. If a running job has them, another log_name is
/// chosen, with a note in the plan. The reservation lasts until this process and its forks have closed the
/// descriptor.
base::Fd reserve_logs(JobPlan& plan);

/// Place of a node among the nodes of its job.
struct Placement {
  int node = 0;  ///< From 0.
  int node_count = 1;
  int first_rank = 0;  ///< Rank of this node's first worker; the others follow. A rank table has priority.
};

/// Stands for a rank in the WorkerPlan of MindSpore's scheduler.
inline constexpr int kSchedulerRank = -1;

struct WorkerPlan {
  int rank;
  std::filesystem::path log;             ///< Absolute.
  std::vector<std::string> environment;  ///< NAME=value, complete.
  std::vector<int> cores;                ///< Cores that the worker may run on; empty: all.
};

/// Ranks of this node's workers, in the order of plan.slots.
std::vector<int> local_ranks(const JobPlan& plan, const Placement& placement);

/// This node's workers, in the order of plan.slots.
std::vector<WorkerPlan> plan_workers(const JobPlan& plan, const Placement& placement);
/// MindSpore's scheduler, for the node that serves the store; none if the job has no scheduler.
std::optional<WorkerPlan> plan_scheduler(const JobPlan& plan);

/// The log of a worker of this node in this start.
std::filesystem::path worker_log(const JobPlan& plan, int rank);

}  // namespace syncbn::launch
