// SPDX-License-Identifier: Apache-2.0

// Engine "mpi": the ranks are processes that an MPI launcher started.
#include <fmt/core.h>

#include <atomic>
#include <limits>
#include <memory>

#include "base/hash.h"
#include "base/host_identity.h"
#include "engines/entry.h"
#include "engines/mpi_calls.h"
#include "engines/mpi_lifetime.h"
#include "engines/mpi_list_agreement.h"
#include "group/wire_version.h"

namespace syncbn::engines {
namespace {

// Sums over an MPI communicator, which it owns.
class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm comm)
      : comm_(comm), buffer_(std::make_unique<std::vector<std::int64_t>>()) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }

  ~MpiCommunicator() override {
    if (request_.in_flight())
      static_cast<void>(buffer_.release());  // leaked on purpose, because MPI may still write to it
    else if (!is_mpi_finalized())
      MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::span<std::int64_t> buffer(std::size_t words) override {
    if (buffer_->size() < words) buffer_->resize(words);
    return {buffer_->data(), words};
  }

  void start(std::size_t words) override {
    if (words > std::numeric_limits<int>::max())
      throw InvalidArgument(fmt::format("a message of {} words, allowed are at most {}", words,
                                        std::numeric_limits<int>::max()));
    const int count = static_cast<int>(words);
    // Unsigned, so that sums wrap.
    request_.started(
        MPI_Iallreduce(MPI_IN_PLACE, buffer_->data(), count, MPI_UINT64_T, MPI_SUM, comm_, request_.get()),
        "MPI_Iallreduce");
  }

  void wait(Deadline deadline) override {
    const bool settled = poll_until(deadline, [this] { return given_up_ || request_.test(); });
    if (given_up_) throw PeerError("this rank gave the sum up");
    if (!settled) throw missing_peer("no sum");
  }

  void abort() noexcept override { given_up_ = true; }

 private:
  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 0;
  std::unique_ptr<std::vector<std::int64_t>> buffer_;
  Request request_;
  std::atomic<bool> given_up_{false};
};

class MpiEngine final : public group::Engine {
 public:
  MpiEngine(const environment::WorldSpec& spec, Deadline deadline) {
    initialize_mpi();
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    if (spec.size != size_ || spec.rank.value_or(rank_) != rank_)
      throw GroupError(
          fmt::format("the launcher says rank {} of {}, {} says rank {} of {}: was the program, which is "
                      "linked with {}, started by the mpirun or mpiexec of another MPI?",
                      spec.rank ? std::to_string(*spec.rank) : "?", spec.size, kMpi, rank_, size_, kMpi));
    Request dup;
    auto world = std::make_unique<MPI_Comm>(MPI_COMM_NULL);
    dup.started(MPI_Comm_idup(MPI_COMM_WORLD, world.get(), dup.get()), "MPI_Comm_idup");
    if (!poll_until(deadline, [&] { return dup.test(); })) {
      static_cast<void>(world.release());  // leaked, because MPI may still write to it
      throw missing_peer(fmt::format("MPI: not all of {} ranks joined", size_));
    }
    world_ = *world;
    MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
    gather_hosts(deadline);
  }

  ~MpiEngine() override {
    if (!is_mpi_finalized()) MPI_Comm_free(&world_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::vector<std::string>& hosts() const override { return hosts_; }

  std::unique_ptr<Communicator> connect(const group::GroupSpec& spec, Deadline deadline) override {
    const int tag = tag_of(spec);
    // MPI_Comm_create_group blocks without a deadline. A member enters it only when it knows that all members
    // have the same list. Otherwise the members would wait forever for a member that has given up.
    agree_on_list(world_, rank_, spec, tag, deadline);
    MPI_Group world = MPI_GROUP_NULL;
    MPI_Group members = MPI_GROUP_NULL;
    MPI_Comm_group(world_, &world);
    MPI_Group_incl(world, static_cast<int>(spec.ranks.size()), spec.ranks.data(), &members);
    MPI_Comm comm = MPI_COMM_NULL;
    const int code = MPI_Comm_create_group(world_, members, tag + 1, &comm);
    MPI_Group_free(&members);
    MPI_Group_free(&world);
    check_mpi(code, "MPI_Comm_create_group");
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    auto connected = std::make_unique<MpiCommunicator>(comm);
    group::check_wire_version(*connected, deadline);
    return connected;
  }
  void note_peer_error() noexcept override {}  // no MPI launcher asks for it

 private:
  void gather_hosts(Deadline deadline) {
    // The buffers must outlive a gather that is abandoned.
    auto own = std::make_unique<std::string>(base::host_identity());
    own->resize(256);
    auto all = std::make_unique<std::string>(own->size() * static_cast<std::size_t>(size_), '\0');
    Request gather;
    const int count = static_cast<int>(own->size());
    gather.started(
        MPI_Iallgather(own->data(), count, MPI_CHAR, all->data(), count, MPI_CHAR, world_, gather.get()),
        "MPI_Iallgather");
    if (!poll_until(deadline, [&] { return gather.test(); })) {
      static_cast<void>(own.release());
      static_cast<void>(all.release());
      throw missing_peer(fmt::format("MPI: not all of {} ranks joined", size_));
    }
    for (std::size_t peer = 0; peer < static_cast<std::size_t>(size_); ++peer)
      hosts_.emplace_back(all->c_str() + peer * own->size());
  }

  // An even tag that depends on the name and the generation, but not on the list, so that members with
  // different lists meet. MPI_Comm_create_group uses the next tag, because an MPI may send its own messages
  // with that tag on the same communicator, as Open MPI does.
  int tag_of(const group::GroupSpec& spec) const {
    int* bound = nullptr;
    int found = 0;
    MPI_Comm_get_attr(world_, MPI_TAG_UB, static_cast<void*>(&bound), &found);
    base::Fnv1a hash;
    hash.add(fmt::format("{}\n{}", spec.name, spec.generation));
    return static_cast<int>(hash.value() % static_cast<std::uint64_t>((found != 0 ? *bound : 32767) / 2) * 2);
  }

  int rank_ = 0;
  int size_ = 0;
  MPI_Comm world_ = MPI_COMM_NULL;
  std::vector<std::string> hosts_;
};

std::unique_ptr<group::Engine> join(const environment::WorldSpec& spec, Deadline deadline) {
  return std::make_unique<MpiEngine>(spec, deadline);
}

const EngineEntry entry{"mpi", &join};

}  // namespace

// The link option --undefined names this symbol, so that the linker takes this file out of an archive.
extern "C" const bool syncbn_engine_mpi = (register_engine(entry), true);

}  // namespace syncbn::engines
