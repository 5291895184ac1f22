#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "launch/cores.h"
#include "launch/usage_error.h"

namespace syncbn::launch {

/// What the command line asks for, checked.
struct Options {
  int worker_num = 8;
  int local_worker_num = 8;  ///< At most worker_num; 1 in a dry run.
  std::string master_addr = "127.0.0.1";
  int master_port = 8118;
  int node_rank = -1;   ///< -1: given when the launchers of all nodes have met. Unused on a single node.
  std::string log_dir;  ///< Empty: the current directory.
  std::string worker_log_name;  ///< Empty: "worker". May hold {ip} and {hostname}.
  bool join = false;
  std::optional<std::chrono::seconds> cluster_time_out = std::chrono::seconds(600);  ///< none: unlimited.
  int max_restarts = 0;              ///< Of the whole job, after a failure of its workers.
  std::vector<int> tail_worker_log;  ///< Ranks whose output goes to the console.
  CoreBinding bind_core;
  int sim_level = -1;    ///< 0 to 3: a dry run of one worker, without communication.
  int sim_rank_id = -1;  ///< Its rank; -1: 0.
  std::string rank_table_file;
  bool ms_scheduler = false;                    ///< MindSpore's own scheduler is started too.
  std::optional<std::string> check_rank_table;  ///< A file to check; then nothing is run.
  std::vector<std::string> task;  ///< Task script and its arguments, not empty if something is run.
};

/// Reads the command line. none: it asked for --help or --version, which has been printed. @throws UsageError
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace syncbn::launch
