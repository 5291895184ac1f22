// SPDX-License-Identifier: Apache-2.0
#include "engines/mpi_lifetime.h"

#include <fmt/core.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/forks.h"
#include "engines/mpi_list_agreement.h"

namespace syncbn::engines {
namespace {

// How srun must be started so that MPI_Init learns the ranks: the variable that shows it, and srun's option.
#ifdef OPEN_MPI
constexpr const char* kSlurmVariable = "PMIX_RANK";
constexpr const char* kSlurmOption = "--mpi=pmix";
#else
constexpr const char* kSlurmVariable = "PMI_RANK";
constexpr const char* kSlurmOption = "--mpi=pmi2";
#endif

std::atomic<int> forks_at_init{-1};

// True if no request is in flight, at the latest after 100 ms, and all peers can be expected to end too.
bool can_finalize() noexcept {
  try {
    return !is_peer_missing() &&
           poll_until(std::chrono::steady_clock::now() + std::chrono::milliseconds(100), [] {
             free_delivered_texts();
             return requests_in_flight() == 0;
           });
  } catch (const Error&) {
    return false;
  }
}

// Runs at the end of a process in which this library has initialized MPI. If a rank ends with an error while
// its peers wait for it, MPI_Finalize would wait until their deadlines. MPI_Abort ends the job at once, with
// this rank's exit code.
void finalize(int status, void*) {
  if (forks_at_init != base::fork_count() || is_mpi_finalized())
    return;  // a fork's end is not the rank's end
  if (status == 0 && can_finalize()) {
    MPI_Finalize();
    return;
  }
  // MPICH's mpiexec may drop output that it has not read yet, such as the message that explains the error.
  std::fflush(stdout);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  MPI_Abort(MPI_COMM_WORLD, status != 0 ? status : EXIT_FAILURE);
}

// If srun does not start the ranks for this MPI, Open MPI ends the process inside MPI_Init, and MPICH takes
// the process for a world of one.
void check_slurm() {
  if (getenv("SLURM_STEP_ID") == nullptr || getenv(kSlurmVariable) != nullptr) return;
  throw GroupError(
      fmt::format("a Slurm step without {} for {}: start it with srun {}, or on engine gloo "
                  "(SYNCBN_BACKEND=gloo)",
                  kSlurmVariable, kMpi, kSlurmOption));
}

}  // namespace

void initialize_mpi() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) {
    if (is_mpi_finalized()) throw GroupError("MPI has been finalized and can't be initialised again");
    int unknown = -1;  // the value if the host program has initialized MPI
    if (!forks_at_init.compare_exchange_strong(unknown, base::fork_count()) && unknown != base::fork_count())
      throw GroupError("this process is a fork of one that uses MPI");
    return;
  }
  forks_at_init = base::fork_count();
  check_slurm();
  int level = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
  on_exit(&finalize, nullptr);
  if (level < MPI_THREAD_MULTIPLE)
    throw GroupError(fmt::format("MPI has thread level {}, needed is MPI_THREAD_MULTIPLE ({})", level,
                                 int{MPI_THREAD_MULTIPLE}));
}

}  // namespace syncbn::engines
