// SPDX-License-Identifier: Apache-2.0
#include "launch/option_table.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "launch/options.h"

namespace syncbn::launch {
namespace {

std::string spelled(bool value) { return value ? "True" : "False"; }

// --help wraps the lines of a meaning anew.
std::vector<OptionRow> make_table() {
  const Options defaults;
  return {
      {"--worker_num", "N", std::to_string(defaults.worker_num),
       "Number of workers of the whole job. -n N is the same."},
      {"--local_worker_num", "N", std::to_string(defaults.local_worker_num),
       R"(Number of workers on this machine, at most --worker_num. If it is less, the job runs on several machines
          (nodes). The same command on each node starts the workers of that node. If only --worker_num is given, all
          workers run on this machine.)"},
      {"--master_addr", "ADDRESS", defaults.master_addr,
       "Name or address of the node where the workers find each other."},
      {"--master_port", "PORT", std::to_string(defaults.master_port),
       R"(TCP port for the framework of the task, 1 to 65535. The workers of syncbn meet at the next port, or at
          SYNCBN_PORT if that variable is set. Without either, a job on one node takes the first of the ports 8118,
          8120, ... that is free together with the next port.)"},
      {"--node_rank", "N", std::to_string(defaults.node_rank),
       R"(Place of this node among the nodes, from 0. It decides the ranks of the node's workers. -1: in the order in
          which the nodes arrive. Ignored on a single node.)"},
      {"--log_dir", "DIR", defaults.log_dir,
       "Directory of the logs. It is created if it is missing. Empty: the current directory."},
      {"--worker_log_name", "NAME", defaults.worker_log_name,
       R"(The logs are NAME_<rank>.log instead of worker_<rank>.log. {ip} and {hostname} in NAME stand for this
          machine's address and name. A log holds the whole output of a worker. The next job overwrites it.)"},
      {"--join", "True|False", spelled(defaults.join),
       R"(True: wait for the job, show the output of the workers, each line after its [rank], and exit with a code from
          the list below. False: return when the workers have been started (on several nodes: at once). The job runs in
          the background under the same supervision. DIR/syncbn-run.log reports its end.)"},
      {"--tail_worker_log", "LIST", "-1",
       "With --join=True, the ranks whose output is shown, such as 0,3. -1: all ranks."},
      {"--cluster_time_out", "S", std::to_string(defaults.cluster_time_out->count()),
       R"(Seconds from the start until all nodes must have arrived, and seconds from the first worker that joins (calls
          init() of syncbn) until all must have joined. Otherwise the job is ended. Programs that never join run to their
          end. Negative: no limit.)"},
      {"--max_restarts", "N", std::to_string(defaults.max_restarts),
       R"(Number of times that the whole job may be started again, at once, when a worker has failed or has not joined
          in time. Must be the same on every node. The logs of the k-th restart are NAME_<rank>.restart_<k>.log. The
          task itself must continue from its checkpoint: SYNCBN_RESTART holds k, or 0.)"},
      {"--bind_core", "BINDING", spelled(defaults.bind_core.even),
       R"(True: split the cores of this machine evenly over its workers. Each worker runs on neighbouring cores that no
          other worker has. Or JSON with cores for the workers by their DEVICE_ID, such as
          {"device0": ["0-3"], "device1": ["4-6", "7"]}. A worker without an entry may run on all cores. The key
          scheduler is for --ms_scheduler. A bound worker gets as many threads as cores.)"},
      {"--rank_table_file", "FILE", defaults.rank_table_file,
       R"(A rank table, version 1.0. The workers get the ranks and DEVICE_IDs of the server in it that has an address of
          this machine. The workers find the file in RANK_TABLE_FILE.)"},
      {"--sim_level", "N", std::to_string(defaults.sim_level),
       R"(0 to 3: a dry run. One worker is started, in a world of --worker_num without communication, with
          MS_SIMULATION_LEVEL set to N. --local_worker_num is ignored. -1: no dry run, unless MS_SIMULATION_LEVEL is set
          already.)"},
      {"--sim_rank_id", "N", std::to_string(defaults.sim_rank_id), "Rank of the dry run. -1: rank 0."},
      {"--ms_scheduler", "True|False", spelled(defaults.ms_scheduler),
       R"(True: for programs that call init() of MindSpore. The task script is started once more as MindSpore's scheduler
          at --master_addr and --master_port (log: DIR/scheduler.log). Code before its init() runs there too. The
          workers get MindSpore's variables, and MindSpore then watches which workers join.)"},
      {"--check_rank_table", "FILE", "",
       R"(Check a rank table, print its content or the name of the key that is wrong, and exit. Nothing is started.)"},
      {"--help", "", "", "Print this text and exit."},
      {"--version", "", "",
       "Print the version and the bits_version (equal values give equal bits), and exit."},
  };
}

// Number of characters to insert, delete or replace that lead from `a` to `b` (Levenshtein 1966).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({replaced, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row[b.size()];
}

std::string with_underscores(std::string_view name) {
  std::string result(name);
  if (name.starts_with("--")) std::replace(result.begin() + 2, result.end(), '-', '_');
  return result;
}

}  // namespace

const std::vector<OptionRow>& option_table() {
  static const std::vector<OptionRow> table = make_table();
  return table;
}

const OptionRow* find_option(std::string_view name) {
  const std::string wanted = name == "-h" ? "--help" : name == "-n" ? "--worker_num" : with_underscores(name);
  const auto row = std::find_if(option_table().begin(), option_table().end(),
                                [&wanted](const OptionRow& each) { return each.name == wanted; });
  return row == option_table().end() ? nullptr : &*row;
}

std::string describe_unknown_option(std::string_view name) {
  constexpr std::size_t kCharactersPerError = 3;  // "--wroker_nmu" has four errors in twelve characters
  const std::string wanted = with_underscores(name);
  std::string_view nearest;
  std::size_t distance = wanted.size() / kCharactersPerError + 1;  // more errors: another word
  for (const OptionRow& row : option_table()) {
    // The beginning of a name is as near as one error.
    const bool begins = wanted.size() > 3 && row.name.starts_with(wanted);
    const std::size_t errors = begins ? 1 : edit_distance(wanted, row.name);
    if (errors >= distance) continue;
    distance = errors;
    nearest = row.name;
  }
  if (name.starts_with("-n")) nearest = "-n";  // mpirun's -np
  const std::string hint = nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest);
  return fmt::format("unknown option '{}'{}", name, hint);
}

}  // namespace syncbn::launch
