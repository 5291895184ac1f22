#include "launch/help.h"

#include <fmt/format.h>

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
      R"(Starts the workers (ranks) of a data-parallel job on this machine and looks after them until all have ended.

Usage: syncbn-run [options] task_script [arguments of the task script]

Examples
  A program on 2 workers, with its output on the console and in syncbn_log/worker_0.log and worker_1.log:
    syncbn-run --worker_num=2 --local_worker_num=2 --join=True --log_dir=syncbn_log ./train --epochs 3
  A Python script on 4 workers, in the background:
    syncbn-run --worker_num 4 --local_worker_num 4 --log_dir syncbn_log train.py
  On two nodes with 4 workers each, the same command on both:
    syncbn-run --worker_num=8 --local_worker_num=4 --master_addr=10.0.0.1 --join=True train.py

The task script may be a program, or a name that is looked up in PATH, such as python3, pytest or bash; a file that ends
in .py is run by the python3 of PATH, a virtual environment's where one is active. Everything after it belongs to it.
Options are written --option=value or --option value.

Options
{options}
How a job ends
  When the first worker fails (exits with a code other than 0, or is killed by a signal), the job ends within a second:
  the others get SIGTERM, and SIGKILL if that is not enough, with all processes they have started. The report names the
  rank that failed first and shows the end of its log. Ctrl-C ends the job in the same way. A worker that exits with 0
  while the others run on is fine. Nothing is left running. With --max_restarts the job is then started again, until it
  succeeds or no restart is left; not after Ctrl-C, and not when a node's launcher is lost.

Exit codes
  0              Every worker exited with 0; with --join=False: the workers have been started.
  a worker's     The code of the worker (or the scheduler) that failed first, or 128 + N if it was killed by signal N
                 (137: SIGKILL).
  {cannot_start}              The job could not be started: the port is in use, a log can't be written, ...
  {usage}              The command line is wrong, or a rank table is.
  {not_joined}            Not all workers had joined within --cluster_time_out.
  130, 143, 129  Ended by Ctrl-C (SIGINT), SIGTERM or SIGHUP.

What a worker finds in its environment
  RANK_ID, RANK          Its rank, from 0.
  RANK_SIZE, WORLD_SIZE  Workers of the whole job.
  DEVICE_ID              Its number on this machine, or its device in the rank table.
  LOCAL_RANK             Its number on this machine, by rank.   LOCAL_WORLD_SIZE  Workers on this machine.
  MASTER_ADDR, MASTER_PORT, MS_TOPO_TIMEOUT            --master_addr, --master_port, --cluster_time_out.
  SYNCBN_STORE, SYNCBN_TOKEN                           host:port where the workers meet, and the job's secret (random,
                                                       unless the variable is set already).
  SYNCBN_RESTART                                       How often the job was restarted (--max_restarts).
  SYNCBN_NUM_THREADS                                   With --bind_core, the number of its cores, unless this variable
                                                       or OMP_NUM_THREADS is set already.
  PYTHONUNBUFFERED=1     Unless set already: what Python prints is seen at once.
  With --ms_scheduler=True: MS_ROLE, MS_WORKER_NUM, MS_SCHED_HOST, MS_SCHED_PORT, MS_NODE_ID. In a dry run:
  MS_SIMULATION_LEVEL, and nothing of where to meet. Its standard input is empty.
)",
      fmt::arg("options", describe_options()), fmt::arg("cannot_start", kCannotStart),
      fmt::arg("usage", kUsage), fmt::arg("not_joined", kNotJoined));
}

}  // namespace syncbn::launch
