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

/// Ranks and groups. The world is all ranks of a job; a group is a named, ordered list of world ranks, and
/// the group rank is the position in that list. Every function below speaks of the calling thread's world
/// (run_ranks), else of the process's (init).
namespace syncbn {

/// Name of the group of all ranks, wherever a group is named. MindSpore's names of it mean the same:
/// hccl_world_group, nccl_world_group, mccl_world_group.
inline constexpr std::string_view kWorldGroup = "world";

/// Which engine carries the sums.
enum class Backend {
  automatic,   ///< What the launcher's environment asks for.
  gloo,        ///< Processes over TCP.
  mpi,         ///< Processes that an MPI launcher started.
  simulation,  ///< None. A dry run of this rank alone: every peer is taken to bring the same as it does.
};

/// The world said by hand, instead of by a launcher's environment.
struct InitOptions {
  int rank = 0;                     ///< In [0, size).
  int size = 1;                     ///< Number of ranks, in [1, 65536].
  std::string host = "127.0.0.1";   ///< Where rank 0 serves the rendezvous (gloo).
  int port = 0;                     ///< Its TCP port in [1, 65535]; needed where size > 1 (gloo).
  Backend backend = Backend::gloo;  ///< Not automatic; mpi: rank and size must be MPI's own.
  std::optional<std::chrono::milliseconds> timeout;  ///< Of every call; none: SYNCBN_TIMEOUT_S, else 300 s.
  std::string token;                                 ///< Shared secret of the job; empty: SYNCBN_TOKEN.
};

/// Joins the world that the launcher's environment describes: syncbn-run, msrun, torchrun or RANK/WORLD_SIZE/
/// MASTER_ADDR/MASTER_PORT by hand (gloo), Open MPI's mpirun (mpi). Without any of them: a world of one. A
/// second call does nothing.
/// @throws GroupError contradicting or half-set variables, an engine that is not linked in; TimeoutError,
/// PeerError
void init(Backend backend = Backend::automatic);
/// Joins the world that `options` describe, whatever the environment says.
/// @throws InvalidArgument, GroupError (already initialised), TimeoutError, PeerError
void init(const InitOptions& options);
bool is_initialized();
/// Leaves the world and drops every group. Layers that still hold a group get a GroupError at their next
/// training call. Until the next init, which may follow, every function that speaks of a world or a group is
/// a GroupError. @throws GroupError where not initialised; init is possible all the same.
void release();

/// Names the ordered list of world ranks. Members only, each with the same list; local, waits for nobody: the
/// connection is made at the first collective use, where differing lists are a MismatchError. The same name
/// with the same list again: nothing happens.
/// @throws InvalidArgument empty list, duplicates, a rank outside [0, world size), the name taken by another
/// list; GroupError not initialised, or this rank is not in the list.
void create_group(const std::string& name, const std::vector<int>& ranks);
/// The group of these world ranks in ascending order, whatever their order here, under a name made from them:
/// "ranks 0-3, 6". For programs in which every rank makes every group: where this rank is no member nothing
/// happens and the result is "". As local as create_group, so members may also call it alone; the same ranks
/// again are the same group, until destroy_group.
/// @throws InvalidArgument empty list, duplicates, a rank outside [0, world size); GroupError not
/// initialised.
std::string new_group(const std::vector<int>& ranks);
/// Forgets the group; the name is free again, for this and for other lists. @throws InvalidArgument for the
/// world; GroupError unknown group, not initialised.
void destroy_group(const std::string& name);

/// Own rank in the group. Before the first init, for the world only, the four get functions answer from the
/// launcher's environment. @throws GroupError unknown group, not initialised, or released.
int get_rank(std::string_view group = kWorldGroup);
int get_group_size(std::string_view group = kWorldGroup);  ///< Number of ranks. @throws as get_rank
/// How many ranks before this one in the group's list are on its host. @throws as get_rank
int get_local_rank(std::string_view group = kWorldGroup);
int get_local_rank_size(
    std::string_view group = kWorldGroup);  ///< Ranks of the group on this host. @throws as get_rank
/// World rank of the member at position `group_rank`. @throws InvalidArgument negative; GroupError unknown
/// group, no such position, not initialised.
int get_world_rank_from_group_rank(std::string_view group, int group_rank);
/// Position of `world_rank` in the group. @throws InvalidArgument negative; GroupError unknown group,
/// `world_rank` is not in it, not initialised.
int get_group_rank_from_world_rank(int world_rank, std::string_view group);

/// Replaces each value by its sum over the ranks of the group, computed exactly and rounded once, to nearest
/// even: the same bits for any order and number of messages. Every rank brings the same number of values and
/// the same type. NaN where a term is NaN or both infinities occur. An exact zero is +0.
/// @throws InvalidArgument (null, misaligned, or more than 2^48 values; peers get a PeerError),
/// MismatchError, PeerError, TimeoutError, GroupError; values are then unchanged
void all_reduce_sum(std::span<float> values, std::string_view group = kWorldGroup);
void all_reduce_sum(std::span<double> values, std::string_view group = kWorldGroup);

/// What a call throws whose wait the program's own interrupt check has ended; the group is broken then. Not a
/// std::exception: nothing on its way takes it for a failure that can be mended.
struct Interrupted {};
/// Lets a host program end waits, an interpreter whose user has pressed Ctrl-C: a thread that waits for peers
/// asks `interrupted` about every 100 ms, with no lock held, and a true ends the wait. Null: waits end by
/// themselves alone, as at first.
void set_interrupt_check(bool (*interrupted)());

class Group;

/// Runs `body` on `size` ranks as threads of this process, a world of its own on each thread, so that every
/// function here and every layer made by `body` speaks of that world. The argument is the rank. Returns when
/// all have ended. Rethrows a failed rank's exception as it is: the lowest rank's among those that failed of
/// themselves and not as an effect of another (PeerError; then GroupError, TimeoutError). Whoever waits for a
/// rank that has failed or ended gets a PeerError at once. The ranks share get_num_threads() of this thread.
/// @throws InvalidArgument size outside [1, 65536], or an empty body
void run_ranks(int size, const std::function<void(int rank)>& body);

/// A group on an engine of the caller's own, for a layer's `process_group`. `name` appears in messages.
/// @throws InvalidArgument null communicator, empty name, or a rank outside [0, size).
std::shared_ptr<Group> make_group(std::string name, std::unique_ptr<Communicator> communicator,
                                  std::optional<std::chrono::milliseconds> timeout = std::nullopt);

}  // namespace syncbn
