#include "launch/option_table.h"

#include <fmt/format.h>

#include "launch/options.h"

namespace syncbn::launch {
namespace {

std::string spelled(bool value) { return value ? "True" : "False"; }

std::vector<OptionRow> make_table() {
  const Options defaults;
  return {
      {"--worker_num", "N", std::to_string(defaults.worker_num), "Workers of the whole job."},
      {"--local_worker_num", "N", std::to_string(defaults.local_worker_num),
       "Workers on this machine, at most --worker_num. If fewer, the job runs on several machines (nodes): "
       "on "
       "each of them the same command starts that node's workers."},
      {"--master_addr", "ADDRESS", defaults.master_addr,
       "Name or address of the node where the workers find each other."},
      {"--master_port", "PORT", std::to_string(defaults.master_port),
       "TCP port for the task's own framework, 1 to 65535. The workers of syncbn meet at the port after it, "
       "or "
       "at SYNCBN_PORT where that variable is set."},
      {"--node_rank", "N", std::to_string(defaults.node_rank),
       "This node's place among the nodes, from 0: it decides the ranks of its workers. -1: as the nodes "
       "come. "
       "Means nothing on a single node."},
      {"--log_dir", "DIR", defaults.log_dir,
       "Directory of the logs, made if it is missing. Empty: the current directory."},
      {"--worker_log_name", "NAME", defaults.worker_log_name,
       "The logs are NAME_<rank>.log instead of worker_<rank>.log; {ip} and {hostname} in NAME stand for "
       "this "
       "machine's. A log holds a worker's whole output; the next job overwrites it."},
      {"--join", "True|False", spelled(defaults.join),
       "True: wait for the job, show what the workers print, each line with its [rank] in front, and exit as "
       "told below. False: return when the workers have been started (on several nodes: at once); the job "
       "goes "
       "on in the background, looked after in the same way, and its end is told in DIR/syncbn-run.log."},
      {"--tail_worker_log", "LIST", "-1",
       "With --join=True, the ranks whose output is shown, such as 0,3; -1: all."},
      {"--cluster_time_out", "S", std::to_string(defaults.cluster_time_out->count()),
       "Seconds from the start in which all nodes must have come and all workers must have joined (called "
       "init() of syncbn), else the job is ended; negative: unlimited, for programs that never join. A "
       "single "
       "worker has nobody to join."},
      {"--max_restarts", "N", std::to_string(defaults.max_restarts),
       "How often the whole job is started again, at once, when a worker has failed or not joined in time; "
       "the same on "
       "every node. The logs of the k-th restart are NAME_<rank>.restart_<k>.log. The task itself goes on "
       "from its "
       "checkpoint: SYNCBN_RESTART holds k, or 0."},
      {"--bind_core", "BINDING", spelled(defaults.bind_core.even),
       "True: this machine's cores are split evenly over its workers, each of which runs on neighbours of "
       "its "
       "own. Or JSON that names cores for the workers by their DEVICE_ID, such as "
       R"({"device0": ["0-3"], "device1": ["4-6", "7"]}; a worker without an entry may run on all. The key )"
       "scheduler is for --ms_scheduler. A bound worker gets as many threads as it has cores."},
      {"--rank_table_file", "FILE", defaults.rank_table_file,
       "A rank table, version 1.0: the ranks and DEVICE_IDs of the workers are those of the server in it "
       "that "
       "has an address of this machine. Workers find the file in RANK_TABLE_FILE."},
      {"--sim_level", "N", std::to_string(defaults.sim_level),
       "0 to 3: a dry run. One worker is started, in a world of --worker_num without communication, with "
       "MS_SIMULATION_LEVEL set to N; --local_worker_num means nothing. -1: none, unless MS_SIMULATION_LEVEL "
       "is "
       "set already."},
      {"--sim_rank_id", "N", std::to_string(defaults.sim_rank_id), "The rank of the dry run; -1: 0."},
      {"--ms_scheduler", "True|False", spelled(defaults.ms_scheduler),
       "True: for programs that call MindSpore's own init(). The task script is started once more as "
       "MindSpore's scheduler at --master_addr and --master_port (log: DIR/scheduler.log; all that stands "
       "before its init() runs there too), and the workers "
       "get "
       "MindSpore's variables. MindSpore then watches who joins."},
      {"--check_rank_table", "FILE", "",
       "Runs nothing: checks a rank table, prints what is in it, or says which key is wrong, and exits."},
      {"--help", "", "", "Print this and exit."},
      {"--version", "", "", "Print the version and exit."},
  };
}

}  // namespace

const std::vector<OptionRow>& option_table() {
  static const std::vector<OptionRow> table = make_table();
  return table;
}

}  // namespace syncbn::launch
