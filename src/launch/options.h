#pragma once

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace syncbn::launch {

/// What the command line asks for, checked.
struct Options {
  int worker_num = 8;
  int local_worker_num = 8;
  std::string master_addr = "127.0.0.1";
  int master_port = 8118;
  int node_rank = -1;   ///< -1: given when the launchers of all nodes have met. Unused on a single node.
  std::string log_dir;  ///< Empty: the current directory.
  std::string worker_log_name;  ///< Empty: "worker". May hold {ip} and {hostname}.
  bool join = false;
  std::optional<std::chrono::seconds> cluster_time_out = std::chrono::seconds(600);  ///< none: unlimited.
  std::vector<int> tail_worker_log;  ///< Ranks whose output goes to the console.
  std::vector<std::string> task;     ///< Task script and its arguments, not empty.
};

/// The command line is wrong; the message names the option, its value and what is allowed.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Reads the command line. none: it asked for --help or --version, which has been printed. @throws UsageError
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace syncbn::launch
