// SPDX-License-Identifier: Apache-2.0
#include "launch/option_table.h"

#include <fmt/core.h>

#include <sstream>

#include "launch/exit_codes.h"
#include "launch/option_table.h"

namespace syncbn::launch {
namespace {

constexpr std::size_t kWidth = 120;
constexpr std::size_t kIndent = 28;  // of the meaning of an option

std::string describe_options() {
  std::string text;
  for (const OptionRow& option : option_table()) {
    std::string line = fmt::format("  {} {}", option.name, option.value);
    line += std::string(line.size() < kIndent ? kIndent - line.size() - 1 : 0, ' ');
    std::string meaning(option.meaning);
    if (!option.default_value.empty()) meaning += fmt::format(" Default {}.", option.default_value);
    std::istringstream words(meaning);
    for (std::string word; words >> word;) {
      if (line.size() + 1 + word.size() > kWidth) {
        text += line + '\n';
        line = std::string(kIndent - 1, ' ');
      }
      line += ' ' + word;
    }
    text += line + '\n';
  }
  return text;
}

}  // namespace

std::string help_text() {
  return fmt::format(
      R"(Starts the workers (ranks) of a data-parallel job on this machine and supervises them until all have ended.

Usage: syncbn-run [options] task_script [arguments of the task script]

Examples
  A program on 2 workers, with its output on the console and in syncbn_log/worker_0.log and worker_1.log:
    syncbn-run --worker_num=2 --local_worker_num=2 --join=True --log_dir=syncbn_log ./train --epochs 3
  A Python script on 4 workers, in the background:
    syncbn-run --worker_num 4 --local_worker_num 4 --log_dir syncbn_log train.py
  On two nodes with 4 workers each, the same command on both nodes:
    syncbn-run --worker_num=8 --local_worker_num=4 --master_addr=10.0.0.1 --join=True train.py

The task script is a program, a name that is looked up in PATH, such as python3, pytest or bash, or a file that ends in
.py. The python3 of PATH runs such a file (in an active virtual environment, its python3). All arguments after the task
script belong to the task script. Options are written --option=value or --option value.

Options
{options}
How a job ends
  When the first worker fails (exits with a code other than 0, or is killed by a signal), the job ends within a second.
  The other workers and all processes that they have started get SIGTERM, and SIGKILL if they do not end. The report
  names the rank that failed first and shows the end of its log. Ctrl-C ends the job in the same way. A worker that
  exits with 0 does not end the job. Nothing is left running. With --max_restarts the job is then started again, until
  it succeeds or no restart is left. There is no restart after Ctrl-C or when the launcher of a node is lost.

Exit codes
  0              Every worker exited with 0. With --join=False: the workers were started.
  a worker's     The code of the worker (or the scheduler) that failed first, or 128 + N if it was killed by signal N
                 (137: SIGKILL).
  {cannot_start}              The job could not be started: the port is in use, a log can't be written, ...
  {usage}              The command line or a rank table is wrong.
  {not_joined}            Nodes had not arrived, or workers had not joined, within --cluster_time_out.
  130, 143, 129  The job was ended by Ctrl-C (SIGINT), SIGTERM or SIGHUP.

Environment of a worker
  RANK_ID, RANK          Its rank, from 0.
  RANK_SIZE, WORLD_SIZE  Number of workers of the whole job.
  DEVICE_ID              Its number on this machine, or its device in the rank table.
  LOCAL_RANK             Its number on this machine, in the order of the ranks.
  LOCAL_WORLD_SIZE       Number of workers on this machine.
  MASTER_ADDR, MASTER_PORT, MS_TOPO_TIMEOUT            --master_addr, --master_port, --cluster_time_out.
  SYNCBN_STORE, SYNCBN_TOKEN                           host:port where the workers meet, and the secret of the job. The
                                                       secret is random, unless the variable is set already.
  SYNCBN_RESTART                                       Number of restarts so far (--max_restarts).
  SYNCBN_NUM_THREADS                                   With --bind_core, the number of its cores, unless this variable
                                                       or OMP_NUM_THREADS is set already.
  PYTHONUNBUFFERED       1, unless set already, so that the output of Python is shown at once.
  With --ms_scheduler=True: MS_ROLE, MS_WORKER_NUM, MS_SCHED_HOST, MS_SCHED_PORT, MS_NODE_ID. In a dry run:
  MS_SIMULATION_LEVEL, and no variable with an address. The standard input of a worker is empty.
)",
      fmt::arg("options", describe_options()), fmt::arg("cannot_start", kCannotStart),
      fmt::arg("usage", kUsage), fmt::arg("not_joined", kNotJoined));
}

}  // namespace syncbn::launch
