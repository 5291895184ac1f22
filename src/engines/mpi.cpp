// Ranks as processes that an MPI's launcher started. One source for every MPI: component mpi is compiled
// against the MPI that CMake finds, component mpich against MPICH.
#define OMPI_SKIP_MPICXX 1  // the deprecated C++ bindings, which want a library of their own
#define MPICH_SKIP_MPICXX 1
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <mpi.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <limits>
#include <list>
#include <mutex>
#include <thread>

#include "base/forks.h"
#include "base/host_identity.h"
#include "base/interrupt.h"
#include "engines/entry.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;

// What a member of a group says to the others besides its list, which has the name and a line feed before it.
constexpr std::string_view kReady = "ready";            // it has seen everybody's list
constexpr std::string_view kDifference = "difference";  // then comes which

// How srun tells this MPI's MPI_Init who is who: the variable that shows it, and the option that asks for it.
#ifdef OPEN_MPI
constexpr const char* kMpi = "Open MPI";
constexpr const char* kSlurmVariable = "PMIX_RANK";
constexpr const char* kSlurmOption = "--mpi=pmix";
#else
constexpr const char* kMpi = "MPICH";
constexpr const char* kSlurmVariable = "PMI_RANK";
constexpr const char* kSlurmOption = "--mpi=pmi2";
#endif

// Requests that were started and have not completed. Where one is abandoned at a deadline, MPI_Finalize would
// wait for it and for the peers, so MPI_Abort takes its place.
std::atomic<int> unfinished{0};
// A deadline has passed: a peer may never come to MPI_Finalize, which waits for all.
std::atomic<bool> peer_is_missing{false};

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw PeerError(fmt::format("{}: {}", call, text));
}

TimeoutError missing_peer(const std::string& what) {
  peer_is_missing = true;
  return TimeoutError(what);
}

bool finalized() {
  int flag = 0;
  MPI_Finalized(&flag);
  return flag != 0;
}

// Calls `done` until it is true. False: the deadline passed first. A sum between two processes takes
// microseconds, so it spins for a millisecond, letting others have the core if they want it; whoever waits
// longer waits for a slow peer and sleeps.
template <class Done>
bool poll_until(Deadline deadline, Done done) {
  constexpr int kTries = 500;  // about 20 µs
  bool finished = done();
  const auto patience = Clock::now() + std::chrono::milliseconds(1);
  while (!finished && Clock::now() < patience) {
    for (int i = 0; i < kTries && !finished; ++i) finished = done();
    if (!finished) std::this_thread::yield();
  }
  for (int naps = 1; !finished; ++naps) {
    if (Clock::now() >= deadline) return false;
    if (naps % 1000 == 0) base::check_interrupt();  // after 50 ms and more
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    finished = done();
  }
  return true;
}

// A started non-blocking operation.
class Request {
 public:
  Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  /// For the start call's last argument; check() its result with started().
  MPI_Request* get() { return &request_; }
  void started(int code, const char* call) {
    check(code, call);
    call_ = call;
    in_flight_ = true;
    ++unfinished;
  }
  bool in_flight() const { return in_flight_; }
  /// False: not yet. @throws PeerError
  bool test() {
    int done = 0;
    const int code = MPI_Test(&request_, &done, MPI_STATUS_IGNORE);
    if (code == MPI_SUCCESS && done == 0) return false;
    in_flight_ = false;
    --unfinished;
    check(code, call_);
    return true;
  }

 private:
  MPI_Request request_ = MPI_REQUEST_NULL;
  const char* call_ = "";
  bool in_flight_ = false;
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm comm)
      : comm_(comm), buffer_(std::make_unique<std::vector<std::int64_t>>()) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }

  ~MpiCommunicator() override {
    if (request_.in_flight())
      static_cast<void>(buffer_.release());  // leaked on purpose: MPI may still write to it
    else if (!finalized())
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
      throw InvalidArgument(
          fmt::format("a message of {} words, allowed are {}", words, std::numeric_limits<int>::max()));
    const int count = static_cast<int>(words);
    // Unsigned, for sums that wrap.
    request_.started(
        MPI_Iallreduce(MPI_IN_PLACE, buffer_->data(), count, MPI_UINT64_T, MPI_SUM, comm_, request_.get()),
        "MPI_Iallreduce");
  }

  void wait(Deadline deadline) override {
    const bool settled = poll_until(deadline, [this] { return given_up_ || request_.test(); });
    if (given_up_) throw PeerError("this rank gave the sum up");
    if (!settled) throw missing_peer("no sum by the deadline");
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

// A message to one peer. MPI reads its bytes until the peer has come, if ever.
struct Message {
  std::string text;
  Request request;
};
// Messages on their way, of all groups. Never destroyed: some may be left at the end of the process.
struct Outbox {
  std::mutex mutex;  // guards the list
  std::list<Message> messages;
};
Outbox& outbox() {
  static auto* const box = new Outbox;
  return *box;
}
void forget_delivered() {
  const std::lock_guard lock(outbox().mutex);
  outbox().messages.remove_if(
      [](Message& message) { return !message.request.in_flight() || message.request.test(); });
}

// Whether nothing is left in flight, or will be in a moment, and the peers can be expected to end, too.
bool settles() noexcept {
  try {
    return !peer_is_missing && poll_until(Clock::now() + std::chrono::milliseconds(100), [] {
      forget_delivered();
      return unfinished == 0;
    });
  } catch (const Error&) {
    return false;
  }
}

std::atomic<int> forks_at_init{-1};

// At the end of a process whose MPI is ours. A rank that ends with an error while its peers wait for it would
// hang in MPI_Finalize until their deadlines; MPI_Abort ends the job at once, with this rank's exit code.
void finalize(int status, void*) {
  if (forks_at_init != base::forks() || finalized()) return;  // the end of a fork is not the rank's
  if (status == 0 && settles()) {
    MPI_Finalize();
    return;
  }
  // MPICH's mpiexec may drop what it has not read of this rank's output yet: the message that says why.
  std::fflush(stdout);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  MPI_Abort(MPI_COMM_WORLD, status != 0 ? status : EXIT_FAILURE);
}

// Open MPI ends a process inside MPI_Init where srun speaks no PMIx, MPICH takes it for a world of one.
void check_slurm() {
  if (getenv("SLURM_STEP_ID") == nullptr || getenv(kSlurmVariable) != nullptr) return;
  throw GroupError(
      fmt::format("a Slurm step without {} for {}: start it with srun {}, or on engine gloo "
                  "(SYNCBN_BACKEND=gloo)",
                  kSlurmVariable, kMpi, kSlurmOption));
}

void initialize() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) {
    if (finalized()) throw GroupError("MPI has been finalized and can't be initialised again");
    int unknown = -1;  // the host program has initialised MPI
    if (!forks_at_init.compare_exchange_strong(unknown, base::forks()) && unknown != base::forks())
      throw GroupError("this process is a fork of one that uses MPI");
    return;
  }
  forks_at_init = base::forks();
  check_slurm();
  int level = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
  on_exit(&finalize, nullptr);
  if (level < MPI_THREAD_MULTIPLE)
    throw GroupError(fmt::format("MPI has thread level {}, needed is MPI_THREAD_MULTIPLE ({})", level,
                                 int{MPI_THREAD_MULTIPLE}));
}

class MpiEngine final : public group::Engine {
 public:
  MpiEngine(const environment::WorldSpec& spec, Deadline deadline) {
    initialize();
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
      static_cast<void>(world.release());  // MPI may still write to it
      throw missing_peer(fmt::format("MPI: not all of {} ranks joined by the deadline", size_));
    }
    world_ = *world;
    MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
    gather_hosts(deadline);
  }

  ~MpiEngine() override {
    if (!finalized()) MPI_Comm_free(&world_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::vector<std::string>& hosts() const override { return hosts_; }

  std::unique_ptr<Communicator> connect(const group::GroupSpec& spec, Deadline deadline) override {
    const int tag = tag_of(spec);
    // MPI_Comm_create_group blocks without a deadline. Nobody enters it before all know that all have the
    // same list: a member that gave up in between would be waited for for ever.
    agree_on_list(spec, tag, deadline);
    MPI_Group world = MPI_GROUP_NULL;
    MPI_Group members = MPI_GROUP_NULL;
    MPI_Comm_group(world_, &world);
    MPI_Group_incl(world, static_cast<int>(spec.ranks.size()), spec.ranks.data(), &members);
    MPI_Comm comm = MPI_COMM_NULL;
    const int code = MPI_Comm_create_group(world_, members, tag + 1, &comm);
    MPI_Group_free(&members);
    MPI_Group_free(&world);
    check(code, "MPI_Comm_create_group");
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    return std::make_unique<MpiCommunicator>(comm);
  }
  void note_peer_error() noexcept override {}  // no launcher of MPI asks

 private:
  void gather_hosts(Deadline deadline) {
    // The buffers outlive a gather that is abandoned.
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
      throw missing_peer(fmt::format("MPI: not all of {} ranks joined by the deadline", size_));
    }
    for (std::size_t peer = 0; peer < static_cast<std::size_t>(size_); ++peer)
      hosts_.emplace_back(all->c_str() + peer * own->size());
  }

  // An even tag for each name and generation, whatever the list, so that members with different lists meet.
  // The next tag is MPI_Comm_create_group's: an MPI's own messages with it may come on the same communicator
  // (Open MPI's do).
  int tag_of(const group::GroupSpec& spec) const {
    int* bound = nullptr;
    int found = 0;
    MPI_Comm_get_attr(world_, MPI_TAG_UB, static_cast<void*>(&bound), &found);
    std::uint64_t hash = 14695981039346656037u;  // FNV-1a
    for (const char c : fmt::format("{}\n{}", spec.name, spec.generation))
      hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    return static_cast<int>(hash % static_cast<std::uint64_t>((found != 0 ? *bound : 32767) / 2) * 2);
  }

  // Returns when every member has come with the same list, and knows that all have. Whoever sees another list
  // tells all members: some may wait for one that waits for nobody here.
  void agree_on_list(const group::GroupSpec& spec, int tag, Deadline deadline) {
    const std::string own = fmt::format("{}\n{}", spec.name, fmt::join(spec.ranks, ", "));
    std::vector<int> peers = spec.ranks;
    std::erase(peers, rank_);
    std::vector<int> absent = peers;
    std::vector<int> unready = peers;
    bool ready = false;
    send(peers, tag, own);
    const bool complete = poll_until(deadline, [&] {
      forget_delivered();
      for (const int peer : peers) {
        const std::optional<std::string> text = receive(peer, tag);
        if (!text) continue;
        if (text->starts_with(kDifference)) throw MismatchError(text->substr(kDifference.size()));
        if (*text != own && *text != kReady) {
          const std::string difference = fmt::format(
              "different lists under one name: world rank {} made it of [{}], world rank {} of [{}]", peer,
              text->substr(text->find('\n') + 1), rank_, fmt::join(spec.ranks, ", "));
          send(peers, tag, std::string(kDifference) + difference);
          throw MismatchError(difference);
        }
        std::erase(*text == own ? absent : unready, peer);
      }
      if (!ready && absent.empty()) send(peers, tag, std::string(kReady));
      ready = absent.empty();
      return unready.empty();
    });
    if (!complete)
      throw missing_peer(fmt::format("of [{}], world rank {} did not come by the deadline",
                                     fmt::join(spec.ranks, ", "),
                                     fmt::join(absent.empty() ? unready : absent, ", ")));
  }

  void send(const std::vector<int>& peers, int tag, const std::string& text) {
    for (const int peer : peers) {
      const std::lock_guard lock(outbox().mutex);
      Message& message = outbox().messages.emplace_back();
      message.text = text;
      message.request.started(MPI_Isend(message.text.data(), static_cast<int>(text.size()), MPI_CHAR, peer,
                                        tag, world_, message.request.get()),
                              "MPI_Isend");
    }
    forget_delivered();
  }

  std::optional<std::string> receive(int peer, int tag) {
    int found = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    check(MPI_Improbe(peer, tag, world_, &found, &message, &status), "MPI_Improbe");
    if (found == 0) return std::nullopt;
    int count = 0;
    MPI_Get_count(&status, MPI_CHAR, &count);
    std::string text(static_cast<std::size_t>(count), '\0');
    check(MPI_Mrecv(text.data(), count, MPI_CHAR, &message, &status), "MPI_Mrecv");
    return text;
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

// The link option --undefined names it, so that the linker takes this file out of an archive.
extern "C" const bool syncbn_engine_mpi = (register_engine(entry), true);

}  // namespace syncbn::engines
