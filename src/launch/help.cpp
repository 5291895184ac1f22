#include "launch/help.h"

#include <fmt/format.h>

#include "launch/exit_codes.h"
#include "launch/options.h"

namespace syncbn::launch {

std::string help_text() {
  const Options defaults;
  return fmt::format(
      R"(Starts the workers (ranks) of a data-parallel job on this machine and looks after them until all have ended.

Usage: syncbn-run [options] task_script [arguments of the task script]

Examples
  A program on 2 workers, with its output on the console and in syncbn_log/worker_0.log and worker_1.log:
    syncbn-run --worker_num=2 --local_worker_num=2 --join=True --log_dir=syncbn_log ./train --epochs 3
  A Python script on 4 workers, in the background:
    syncbn-run --worker_num 4 --local_worker_num 4 --log_dir syncbn_log train.py

The task script may be a program, or a name that is looked up in PATH, such as python3, pytest or bash; a file that ends
in .py is run by python3. Everything after it belongs to it. Options are written --option=value or --option value.

Options
  --worker_num N         Workers of the whole job, 1 or more. Default {worker_num}.
  --local_worker_num N   Workers on this machine; must equal --worker_num. Default {local_worker_num}.
  --master_addr ADDRESS  Name or address of this machine, where the workers find each other. Default {master_addr}.
  --master_port PORT     TCP port for the task's own framework, 1 to 65535. Default {master_port}. The workers of syncbn
                         meet at the port after it, or at SYNCBN_PORT where that variable is set.
  --log_dir DIR          Directory of the logs, made if it is missing. Default: the current directory.
  --worker_log_name NAME The logs are NAME_<rank>.log instead of worker_<rank>.log; {{ip}} and {{hostname}} in NAME stand
                         for this machine's. A log holds a worker's whole output; the next job overwrites it.
  --join True|False      True: wait for the job, show what the workers print, each line with its [rank] in front, and
                         exit as told below. False: return when the workers have been started; the job goes on in the
                         background, looked after in the same way, and its end is told in DIR/syncbn-run.log.
                         Default {join}.
  --cluster_time_out S   Seconds from the start in which all workers must have joined (called init() of syncbn), else
                         the job is ended; negative: unlimited, for programs that never join. Default {cluster_time_out}.
                         A single worker has nobody to join.
  --tail_worker_log LIST With --join=True, the ranks whose output is shown, such as 0,3; -1: all. Default -1.
  --help                 Print this and exit.
  --version              Print the version and exit.

How a job ends
  When the first worker fails (exits with a code other than 0, or is killed by a signal), the job ends within a second:
  the others get SIGTERM, and SIGKILL if that is not enough, with all processes they have started. The report names the
  rank that failed first and shows the end of its log. Ctrl-C ends the job in the same way. A worker that exits with 0
  while the others run on is fine. Nothing is left running.

Exit codes
  0              Every worker exited with 0; with --join=False: the workers have been started.
  a worker's     The code of the worker that failed first, or 128 + N if it was killed by signal N (137: SIGKILL).
  {cannot_start}              The job could not be started: the port is in use, a log can't be written, ...
  {usage}              The command line is wrong.
  {not_joined}            Not all workers had joined within --cluster_time_out.
  130, 143, 129  Ended by Ctrl-C (SIGINT), SIGTERM or SIGHUP.

What a worker finds in its environment
  RANK_ID, RANK          Its rank, from 0.
  RANK_SIZE, WORLD_SIZE  Workers of the whole job.
  DEVICE_ID, LOCAL_RANK  Its number on this machine.   LOCAL_WORLD_SIZE  Workers on this machine.
  MASTER_ADDR, MASTER_PORT, MS_TOPO_TIMEOUT            --master_addr, --master_port, --cluster_time_out.
  SYNCBN_STORE, SYNCBN_TOKEN                           host:port where the workers meet, and the job's secret (random,
                                                       unless the variable is set already).
  PYTHONUNBUFFERED=1     Unless set already: what Python prints is seen at once.
Its standard input is empty.
)",
      fmt::arg("worker_num", defaults.worker_num), fmt::arg("local_worker_num", defaults.local_worker_num),
      fmt::arg("master_addr", defaults.master_addr), fmt::arg("master_port", defaults.master_port),
      fmt::arg("join", defaults.join ? "True" : "False"),
      fmt::arg("cluster_time_out", defaults.cluster_time_out->count()),
      fmt::arg("cannot_start", kCannotStart), fmt::arg("usage", kUsage), fmt::arg("not_joined", kNotJoined));
}

}  // namespace syncbn::launch
