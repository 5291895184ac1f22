// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "launch/plan.h"

/// Starts and ends processes. A process that calls become_subreaper() becomes the parent of every descendant
/// whose parent has died, so no descendant can escape by forking twice.
namespace syncbn::launch {

/// SIGKILL takes microseconds, but longer for a process that waits for a dead disk.
inline constexpr std::chrono::milliseconds kKillTime{5000};

/// @throws std::system_error
void become_subreaper();

/// Starts a worker with `signal_mask` on its cores, as the leader of a new session and process group. Its
/// standard input is empty. Its standard output and error go to its log, which is overwritten. The worker is
/// killed when the calling thread ends. If the program can't be executed, the log says why and the exit code
/// is 126 or 127.
/// @throws std::system_error the log can't be written, or no process can be created
pid_t start_worker(const Command& command, const WorkerPlan& worker, const sigset_t& signal_mask);

/// The children of this process, including those that have ended but were not waited for.
std::vector<pid_t> children();

/// Kills all children, and the grandchildren that become children by that, until none is left. False if some
/// are still alive after `time`.
bool kill_descendants(std::chrono::milliseconds time);

/// The exit code that a shell reports for a status of waitpid(): the exit code, or 128 + the number of the
/// signal.
int exit_code(int status);
std::string describe_end(int status);  ///< "exit code 3", "killed by signal 9 (SIGKILL)"
std::string signal_name(int signal);   ///< "SIGKILL"

}  // namespace syncbn::launch
