// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "syncbn/communicator.h"
#include "syncbn/export.h"
#include "syncbn/tensor.h"

/// @file
/// Ranks and groups. The world is all ranks of a job. A group is a named, ordered list of world ranks; the
/// group rank is the position in the list. Every function below works on the calling thread's world if
/// run_ranks made one, else on the process's world, made by init.
namespace syncbn {

/// Name of the group of all ranks. MindSpore's names hccl_world_group, nccl_world_group and mccl_world_group
/// mean the same group.
inline constexpr std::string_view kWorldGroup = "world";

/// Engine that carries the sums.
enum class Backend {
  automatic,   ///< The engine that the launcher's environment asks for.
  gloo,        ///< Processes over TCP.
  mpi,         ///< Processes that an MPI launcher started.
  simulation,  ///< No engine: a dry run of this rank alone, as if every peer brought the same as this rank.
};

/// Description of a world by the program instead of by a launcher's environment.
struct InitOptions {
  int rank = 0;                     ///< This rank, in [0, size).
  int size = 1;                     ///< Number of ranks, in [1, 65536].
  std::string host = "127.0.0.1";   ///< Host on which rank 0 serves the rendezvous (gloo).
  int port = 0;                     ///< TCP port of the rendezvous, in [1, 65535]; needed if size > 1 (gloo).
  Backend backend = Backend::gloo;  ///< Not automatic. With mpi, rank and size must be MPI's own.
  /// Longest duration of a call, in milliseconds; none: SYNCBN_TIMEOUT_S, else 300 s.
  std::optional<std::chrono::milliseconds> timeout = std::nullopt;
  std::string token = {};  ///< Shared secret of the job; empty: SYNCBN_TOKEN.
};

/// Joins the world that the launcher's environment describes, and waits for all its ranks. Known launchers:
/// syncbn-run, msrun, torchrun, Slurm, a rank table, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set by
/// hand (gloo); Open MPI's and MPICH's mpirun (mpi). Without any of them the world has one rank. Does nothing
/// if a world was joined before.
///
/// msrun starts the program once more, as a scheduler (MS_ROLE=MS_SCHED), which syncbn does not need. In that
/// process init() ends the process by std::exit(0) and does not return.
/// @throws GroupError contradicting or missing variables, an engine that is not linked in; TimeoutError,
/// PeerError
SYNCBN_API void init(Backend backend = Backend::automatic);
/// Joins the world that `options` describe, whatever the environment says.
/// @throws InvalidArgument, GroupError (already initialised), TimeoutError, PeerError
SYNCBN_API void init(const InitOptions& options);
/// True if the calling thread or the process is in a world.
SYNCBN_API bool is_initialized();
/// Leaves the world and drops every group. A layer that still holds a group gets a GroupError at its next
/// training call. Until the next init(), every function that needs a world or a group throws GroupError.
/// @throws GroupError not initialised; a later init() is possible all the same
SYNCBN_API void release();

/// Creates a group from an ordered list of world ranks. Called by the members only, each with the same list.
/// Local: waits for no peer. The group connects at its first collective use; differing lists are a
/// MismatchError there. Does nothing if the name has the same list already.
///
///     if (syncbn::get_rank() < 2) syncbn::create_group("first two", {0, 1});
///
/// @throws InvalidArgument empty list, duplicates, a rank outside [0, world size), or a name that has another
/// list; GroupError not initialised, or this rank is not in the list
SYNCBN_API void create_group(const std::string& name, const std::vector<int>& ranks);
/// Creates the group of these world ranks in ascending order, and returns its name, made from the ranks:
/// "ranks 0-3, 6". For programs in which every rank makes every group: a rank that is not a member gets "".
/// Local like create_group, so the members may also call it alone. The same ranks give the same group until
/// destroy_group.
/// @throws InvalidArgument empty list, duplicates, or a rank outside [0, world size); GroupError not
/// initialised
SYNCBN_API std::string new_group(const std::vector<int>& ranks);
/// Closes a group and frees its name, for the same or another list.
/// @throws InvalidArgument for the world; GroupError unknown group, not initialised
SYNCBN_API void destroy_group(const std::string& name);

/// This rank's position in the group. Before the first init(), the four functions get_rank to
/// get_local_rank_size answer from the launcher's environment, for the world only.
/// @throws GroupError unknown group, not initialised, or released
SYNCBN_API int get_rank(std::string_view group = kWorldGroup);
/// Number of ranks in the group. @throws as get_rank
SYNCBN_API int get_group_size(std::string_view group = kWorldGroup);
/// Number of ranks on this rank's host that come before it in the group's list. @throws as get_rank
SYNCBN_API int get_local_rank(std::string_view group = kWorldGroup);
/// Number of the group's ranks on this rank's host. @throws as get_rank
SYNCBN_API int get_local_rank_size(std::string_view group = kWorldGroup);
/// World rank of the member at position `group_rank`.
/// @throws InvalidArgument negative; GroupError unknown group, no such position, not initialised
SYNCBN_API int get_world_rank_from_group_rank(std::string_view group, int group_rank);
/// Position of `world_rank` in the group.
/// @throws InvalidArgument negative; GroupError unknown group, `world_rank` is not in it, not initialised
SYNCBN_API int get_group_rank_from_world_rank(int world_rank, std::string_view group);

/// Replaces each value by its sum over the ranks of the group. Each sum is exact and rounded once, to nearest
/// even, so its bits depend on no order. Every rank brings the same number of values of the same type. A sum
/// is NaN if a term is NaN or if both infinities occur. An exact zero is +0.
///
///     std::vector<double> loss{rank_loss};
///     syncbn::all_reduce_sum(loss);
///
/// @throws InvalidArgument (null or misaligned data, or more than 2^48 values; peers get a PeerError),
/// MismatchError, PeerError, TimeoutError, GroupError; the values are then unchanged
SYNCBN_API void all_reduce_sum(std::span<float> values, std::string_view group = kWorldGroup);
SYNCBN_API void all_reduce_sum(std::span<double> values, std::string_view group = kWorldGroup);

/// Multiplies two matrices whose rows lie on the ranks of the group: c = aᵀ·b, c_ij = Σ a_ni·b_nj over the
/// rows n of all ranks. Each sum is exact and rounded once, by the rules of all_reduce_sum, so its bits
/// depend neither on the order nor on which rank has a row. Such sums are the gradients of a linear layer's
/// weights. With a column of ones a gives sums of b's columns.
///
/// a: (rows, I), b: (rows, J), c: (I, J), all float32 or all float64. Ranks may have different numbers of
/// rows, also none. Every rank brings the same I, J and dtype, and gets all of c. The message has I·J·14
/// words for float32 and I·J·92 for float64. Meant for small networks, tests and audits: docs/reproducible.md
/// has costs.
///
///     syncbn::all_reduce_matmul(view(x, {n, 64}), view(dy, {n, 10}), view(weight_grad, {64, 10}));
///
/// @throws InvalidArgument (a dtype, a shape, null or misaligned data, c overlaps a or b; peers get a
/// PeerError), MismatchError, PeerError, TimeoutError, GroupError; c is then unspecified
SYNCBN_API void all_reduce_matmul(const ConstTensorView& a, const ConstTensorView& b, const TensorView& c,
                                  std::string_view group = kWorldGroup);

/// Thrown by a call whose wait the interrupt check has ended; the group is then broken. Not a std::exception,
/// so that no handler takes it for a failure and tries again.
struct SYNCBN_API Interrupted {};
/// Lets a host program end waits, such as an interpreter whose user has pressed Ctrl-C. A thread that waits
/// for peers calls `interrupted` about every 100 ms, with no lock held. If it returns true, the wait ends by
/// Interrupted. Null, the default, removes the check.
SYNCBN_API void set_interrupt_check(bool (*interrupted)());

class Group;

/// Runs `body` on `size` ranks, each a thread of this process with its own world. In `body`, every
/// function of this header and every layer works on that world. The argument is the rank. Returns when all
/// ranks have ended. The ranks share get_num_threads() of the calling thread.
///
///     syncbn::run_ranks(2, [](int rank) {
///       syncbn::SyncBatchNorm bn(64);  // one layer a rank: a layer belongs to the rank that made it
///       ...
///     });
///
/// If ranks fail, their peers get a PeerError at once, also at calls that wait for a rank that has ended. The
/// exception of the lowest rank that failed by itself is rethrown as it is. PeerError, then GroupError and
/// TimeoutError, count as effects of another rank's failure.
/// @throws InvalidArgument size outside [1, 65536], or an empty body
SYNCBN_API void run_ranks(int size, const std::function<void(int rank)>& body);

/// Makes a group on a custom engine, for a layer's process_group. `name` appears in messages.
/// `timeout` limits each call; none: SYNCBN_TIMEOUT_S, else 300 s. `timeout_setting` tells in messages what
/// has set `timeout`. If all ranks are processes of one host, the engine carries two messages, and then the
/// ranks sum in shared memory (SYNCBN_SHARED_MEMORY=0: the engine carries all). On several hosts this needs a
/// MultiHostCommunicator.
/// @throws InvalidArgument null communicator, empty name, or a rank outside [0, size); GroupError a wrong
/// value of one of these variables
SYNCBN_API std::shared_ptr<Group> make_group(
    std::string name, std::unique_ptr<Communicator> communicator,
    std::optional<std::chrono::milliseconds> timeout = std::nullopt,
    const std::string& timeout_setting = "the timeout of make_group()");

}  // namespace syncbn
