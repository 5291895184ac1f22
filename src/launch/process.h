#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "launch/plan.h"

/// Processes: starting one, ending all of them. A process that calls become_subreaper() is the parent of
/// every descendant whose own parent has died, so none can slip away by forking twice.
namespace syncbn::launch {

void become_subreaper();

/// Starts a worker as the leader of a session and process group of its own, with an empty standard input,
/// standard output and error in its log (overwritten), on its cores, with `signal_mask`. It is killed when
/// the calling thread ends. Where the program can't be executed, the log says so and the exit code is 126 or
/// 127.
/// @throws std::system_error the log can't be written; no process can be made
pid_t start_worker(const Command& command, const WorkerPlan& worker, const sigset_t& signal_mask);

/// The children of this process, those that have ended and were not waited for included.
std::vector<pid_t> children();

/// Kills every child, and every child that this makes an orphan of ours, until there is none. False: some
/// live on at the end of `time`.
bool kill_descendants(std::chrono::milliseconds time);

/// What a shell makes of a status of waitpid(): the exit code, or 128 + the signal's number.
int exit_code(int status);
std::string describe_end(int status);  ///< "exit code 3", "killed by signal 9 (SIGKILL)"
std::string signal_name(int signal);   ///< "SIGKILL"

}  // namespace syncbn::launch
