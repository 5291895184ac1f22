// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "launch/cores.h"
#include "launch/exit_codes.h"

namespace syncbn::launch {

/// The checked command line.
struct Options {
  int worker_num = 8;
  int local_worker_num = 8;  ///< At most worker_num; 1 in a dry run. worker_num if that alone is given.
  std::string master_addr = "127.0.0.1";
  int master_port = 8118;
  bool master_port_given = false;
  int node_rank = -1;           ///< -1: assigned when all nodes have arrived. Unused on a single node.
  std::string log_dir;          ///< Empty: the current directory.
  std::string worker_log_name;  ///< Empty: "worker". May hold {ip} and {hostname}.
  bool join = false;
  std::optional<std::chrono::seconds> cluster_time_out = std::chrono::seconds(600);  ///< none: unlimited.
  int max_restarts = 0;              ///< Restarts of the whole job after failures of workers.
  std::vector<int> tail_worker_log;  ///< Ranks whose output is shown on the console.
  CoreBinding bind_core;
  int sim_level = -1;    ///< 0 to 3: a dry run of one worker, without communication.
  int sim_rank_id = -1;  ///< Rank of the dry run; -1: 0.
  std::string rank_table_file;
  bool ms_scheduler = false;                    ///< True: start MindSpore's scheduler too.
  std::optional<std::string> check_rank_table;  ///< A rank table to check; then nothing is run.
  std::vector<std::string> task;  ///< Task script and its arguments. Empty only with check_rank_table.
};

/// Reads the command line. None if it asked for --help or --version, which are printed here. @throws
/// UsageError
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace syncbn::launch
