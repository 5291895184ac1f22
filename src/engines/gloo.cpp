// Ranks as processes that find each other on a store and sum over TCP with Gloo.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>
#include <random>

#include "base/block_signals.h"
#include "base/forks.h"
#include "base/host_identity.h"
#include "engines/entry.h"
#include "engines/gloo_attendance.h"
#include "engines/gloo_communicator.h"
#include "engines/handshake.h"
#include "rendezvous/socket.h"
#include "rendezvous/store_server.h"
#include "rendezvous/tcp_store.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto kFirstAttempt = std::chrono::seconds(1);  // doubled with each further attempt
constexpr auto kFarewell = std::chrono::seconds(5);      // for the peers to leave the store served here
constexpr auto kStoreLook = milliseconds(250);       // how often who waits on the store looks who has gone
constexpr auto kNoteTime = std::chrono::seconds(1);  // for the store to take a note; the caller waits

// Gloo's view of a store, for one attempt to connect.
class AttemptStore final : public gloo::rendezvous::Store {
 public:
  AttemptStore(rendezvous::Store& store, std::string prefix, Deadline deadline)
      : store_(store), prefix_(std::move(prefix)), deadline_(deadline) {}
  void set(const std::string& key, const std::vector<char>& data) override {
    store_.set(prefix_ + key, {data.data(), data.size()});
  }
  std::vector<char> get(const std::string& key) override {
    const std::string value = store_.get(prefix_ + key, deadline_);
    return {value.begin(), value.end()};
  }
  void wait(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) get(key);
  }
  void wait(const std::vector<std::string>& keys, const milliseconds&) override { wait(keys); }

 private:
  rendezvous::Store& store_;
  const std::string prefix_;
  const Deadline deadline_;
};

std::string gone_list(std::int64_t world) { return fmt::format("world/{}/gone", world); }

// The part of a store that belongs to one world: ranks may leave their world and join again on the same
// store. What is waited for here all members need to go on, so a member that has gone ends the wait.
class WorldStore final : public rendezvous::Store {
 public:
  WorldStore(rendezvous::Store& store, std::int64_t world, std::vector<int> members)
      : store_(store),
        prefix_(fmt::format("world/{}/", world)),
        gone_(gone_list(world)),
        members_(std::move(members)) {}
  void set(std::string_view key, std::string_view value) override { store_.set(prefixed(key), value); }
  std::string get(std::string_view key, Deadline deadline) override {
    for (;;) {
      const Deadline look = std::min(deadline, Clock::now() + kStoreLook);
      try {
        return store_.get(prefixed(key), look);
      } catch (const TimeoutError&) {
        look_for_gone(deadline);
        if (look == deadline) throw;
      }
    }
  }
  std::int64_t add(std::string_view key, std::int64_t delta) override {
    return store_.add(prefixed(key), delta);
  }

 private:
  std::string prefixed(std::string_view key) const { return prefix_ + std::string(key); }

  // The list is made of the wills of all ranks that ever were in this world.
  void look_for_gone(Deadline deadline) {
    for (const std::int64_t count = store_.add(gone_, 0); seen_ < count; ++seen_) {
      const std::string rank = store_.get(fmt::format("{}/{}", gone_, seen_), deadline);
      if (!rank.empty() && std::find(members_.begin(), members_.end(), std::stoi(rank)) != members_.end())
        throw PeerError(fmt::format("world rank {} has ended or left the world", rank));
    }
  }

  rendezvous::Store& store_;
  const std::string prefix_;
  const std::string gone_;
  const std::vector<int> members_;
  std::int64_t seen_ = 0;
};

unsigned random_word() { return std::random_device()(); }

// Tells this process from every other, in a form that an error message can show.
std::string own_identity() {
  static const unsigned word = random_word();
  return fmt::format("process {} on {} ({:08x})", getpid(), base::host_name(), word);
}

// The store that this process serves for its job. It outlasts release(), since a peer may still be in the old
// world or already be joining the next, and goes with the process, or when the process joins another job.
class ServedStore {
 public:
  ~ServedStore() { stop(); }

  // The port that it listens on; `address` is what is listened on, by default spec.host. @throws GroupError
  int serve(const environment::WorldSpec& spec, const std::optional<std::string>& address = std::nullopt) {
    const std::lock_guard lock(mutex_);
    if (inherited()) static_cast<void>(server_.release());
    if (!server_ || spec.host != host_ || (spec.port != port_ && spec.port != 0) || spec.token != token_) {
      stop();
      server_ = std::make_unique<rendezvous::StoreServer>(
          address.value_or(spec.host), spec.port, spec.token,
          rendezvous::StoreLimits{.members = rendezvous::members_of(spec.size)});
      host_ = spec.host;
      port_ = server_->port();
      token_ = spec.token;
      forks_ = base::forks();
    }
    return port_;
  }

 private:
  // A fork of the process that serves has no thread that would end.
  bool inherited() const { return server_ != nullptr && forks_ != base::forks(); }
  void stop() {
    if (inherited()) static_cast<void>(server_.release());
    if (server_) server_->wait_until_idle(Clock::now() + kFarewell);
    server_ = nullptr;
  }

  std::mutex mutex_;  // guards all below
  std::unique_ptr<rendezvous::StoreServer> server_;
  std::string host_;
  int port_ = 0;
  std::string token_;
  int forks_ = 0;
};
// Made when the program is loaded, and so destroyed after the worlds, whose connections close first.
ServedStore served_store;

// Ranks that were handed to this process, by "host:port" of the store: it keeps them when it joins again.
std::map<std::string, int> handed_ranks;
std::mutex handed_ranks_mutex;

class GlooEngine final : public group::Engine {
 public:
  GlooEngine(const environment::WorldSpec& spec, Deadline deadline)
      : spec_(spec), port_(serve(spec, deadline)), membership_(spec_.host, port_, spec_.token, deadline) {
    rank_ = spec_.rank ? *spec_.rank : handed_rank();
    if (rank_ < 0 || rank_ >= spec_.size)
      throw GroupError(fmt::format("rank {}, expected one in [0, {})", rank_, spec_.size));
    take_rank(deadline);
    try {
      gather_hosts(deadline);
    } catch (
        const TimeoutError&) {  // others that still wait shall name who is missing, not who missed it first
      withdraw_will();
      give_rank_back();
      throw;
    } catch (...) {
      give_rank_back();
      throw;
    }
    gloo::transport::tcp::attr address(membership_.local_address().c_str());
    if (address.hostname.starts_with("127.") || address.hostname == "::1") address.hostname = "127.0.0.1";
    const base::BlockSignals deaf;  // for the device's thread, which writes to sockets
    device_ = gloo::transport::tcp::CreateDevice(address);
  }

  int rank() const override { return rank_; }
  int size() const override { return spec_.size; }
  const std::vector<std::string>& hosts() const override { return hosts_; }

  std::unique_ptr<Communicator> connect(const group::GroupSpec& group, Deadline deadline) override {
    rendezvous::TcpStore connection(spec_.host, port_, spec_.token,
                                    deadline);  // its own: groups connect at the same time
    WorldStore store(connection, world_, group.ranks);
    const std::string key = agree_on_list(store, group, rank_, deadline);
    // A stray connection to a socket on which Gloo waits for a peer spoils an attempt; all ranks then try
    // again.
    auto time = kFirstAttempt;
    for (int attempt = 0;; ++attempt, time *= 2) {
      const std::string prefix = fmt::format("gloo/{}/{}/", key, attempt);
      std::unique_ptr<Communicator> communicator;
      std::string failure;
      try {
        communicator = connect_mesh(store, group, prefix, std::min(deadline, Clock::now() + time));
      } catch (const std::exception& error) {
        failure = plain_text(error);
      }
      failure = first_failure(store, group, prefix, failure, deadline);
      if (failure.empty()) return communicator;
      if (Clock::now() >= deadline)
        throw TimeoutError(fmt::format("not connected by the deadline: {}", failure));
    }
  }

  void note_peer_error() noexcept override {
    try {
      membership_.set_deadline(Clock::now() + kNoteTime);
      membership_.add(rendezvous::peer_error_counter(rank_), 1);
    } catch (...) {  // the store is gone, and who would have looked; or the program wants to end
    }
  }

 private:
  // The store's port. Where nobody is named to serve, the first process to take the port does. The one who is
  // named serves also behind an address that is not this machine's, such as a Kubernetes service's: there it
  // listens on all of its own.
  static int serve(const environment::WorldSpec& spec, Deadline deadline) {
    if (spec.serve == false) return spec.port;
    rendezvous::wait_for_name(spec.host, deadline);
    for (;;) {
      try {
        return served_store.serve(spec);
      } catch (const rendezvous::AddressElsewhere&) {
        if (!spec.serve) return spec.port;
        return served_store.serve(spec, "");
      } catch (const rendezvous::AddressUnavailable&) {
        if (spec.serve) throw;
        if (is_served(spec, deadline)) return spec.port;
      } catch (const GroupError&) {
        if (!spec.serve) return spec.port;
        throw;
      }
    }
  }

  // Of two processes that listen at the same moment both may be refused, and somebody else's connection may
  // have the port for a while: then nobody serves yet.
  static bool is_served(const environment::WorldSpec& spec, Deadline deadline) {
    const std::chrono::milliseconds pause(20 + random_word() % 80);
    try {
      rendezvous::connect_to(spec.host, spec.port, std::min(deadline, Clock::now() + pause));
    } catch (const TimeoutError&) {
      return Clock::now() >= deadline;  // who connects next says so
    }
    return true;
  }

  int handed_rank() {
    const std::lock_guard lock(handed_ranks_mutex);
    const auto [entry, first] = handed_ranks.try_emplace(fmt::format("{}:{}", spec_.host, port_), -1);
    if (entry->second < 0) entry->second = static_cast<int>(membership_.add("world/next_rank", 1)) - 1;
    if (entry->second >= spec_.size)
      throw GroupError(
          fmt::format("all {} ranks of the job at {}:{} are taken", spec_.size, spec_.host, port_));
    return entry->second;
  }

  // The worlds of a store are told apart by how often each rank has joined, which is the same number on all
  // of them.
  void take_rank(Deadline deadline) {
    world_ = membership_.add(rendezvous::joined_counter(rank_), 1);
    const std::string key = fmt::format("world/owner/{}", rank_);
    if (world_ == 1) membership_.set(key, own_identity());
    const std::string owner = membership_.get(key, deadline);
    if (owner == own_identity()) return membership_.leave_will(gone_list(world_), std::to_string(rank_));
    give_rank_back();
    throw GroupError(
        fmt::format("rank {} of the job at {}:{} is already taken by {}", rank_, spec_.host, port_, owner));
  }

  // So that a later init() counts this join no more than the peers do.
  void give_rank_back() noexcept {
    try {
      const auto moment = Clock::now() + std::chrono::seconds(1);
      rendezvous::TcpStore(spec_.host, port_, spec_.token, moment).add(rendezvous::joined_counter(rank_), -1);
    } catch (...) {  // the store is gone, and the count with it; or the program wants to end
    }
  }

  void withdraw_will() noexcept {
    try {
      membership_.set_deadline(Clock::now() + std::chrono::seconds(1));
      membership_.leave_will(gone_list(world_), "");
    } catch (...) {  // as above
    }
  }

  void gather_hosts(Deadline deadline) {
    std::vector<int> all(static_cast<std::size_t>(spec_.size));
    std::iota(all.begin(), all.end(), 0);
    WorldStore store(membership_, world_, std::move(all));
    const auto key = [](int rank) { return fmt::format("host/{}", rank); };
    store.set(key(rank_), fmt::format("{} {}", spec_.size, base::host_identity()));
    if (rank_ == 0) store.set("secret", fmt::format("{:x}{:08x}", random_word(), random_word()));
    membership_.append(rendezvous::kJoinedList, std::to_string(rank_));
    std::vector<int> missing;
    for (int peer = 0; peer < spec_.size; ++peer) {
      try {
        // After the deadline the others are only asked for, so that the message has all that are missing.
        const std::string value =
            store.get(key(peer), missing.empty() ? deadline : Clock::now() + milliseconds(50));
        const auto space = value.find(' ');
        if (value.substr(0, space) != std::to_string(spec_.size))
          throw GroupError(fmt::format("rank {} was started in a world of {} ranks, rank {} in one of {}",
                                       peer, value.substr(0, space), rank_, spec_.size));
        hosts_.push_back(value.substr(space + 1));
      } catch (const TimeoutError&) {
        missing.push_back(peer);
      }
    }
    if (!missing.empty())
      throw TimeoutError(fmt::format("rendezvous {}:{}: rank {} of {} did not join by the deadline",
                                     spec_.host, port_, fmt::join(missing, ", "), spec_.size));
    secret_ = std::stoull(store.get("secret", deadline), nullptr, 16);
  }

  std::unique_ptr<Communicator> connect_mesh(rendezvous::Store& store, const group::GroupSpec& group,
                                             const std::string& prefix, Deadline deadline) {
    const auto position = std::find(group.ranks.begin(), group.ranks.end(), rank_) - group.ranks.begin();
    const int size = static_cast<int>(group.ranks.size());
    auto context = std::make_shared<gloo::rendezvous::Context>(static_cast<int>(position), size);
    // Gloo waits five times as long for a connection.
    const auto patience = std::chrono::ceil<milliseconds>((deadline - Clock::now()) / 5);
    context->setTimeout(std::max(milliseconds(1), patience));
    AttemptStore attempt(store, prefix, deadline);
    context->connectFullMesh(attempt, device_);
    // A stranger may have got a peer's place unnoticed, but can't know what the peer brings to a sum of
    // secret words. The sum goes over every connection that sums will use: the ring cuts two segments a rank.
    auto communicator = std::make_unique<GlooCommunicator>(
        std::move(context),
        GlooAttendance(spec_.host, port_, spec_.token, fmt::format("world/{}/{}waits/", world_, prefix),
                       static_cast<int>(position), size));
    const auto words = communicator->buffer(2 * group.ranks.size());
    std::vector<std::int64_t> expected(words.size());
    for (int member = 0; member < size; ++member) {
      for (std::size_t i = 0; i < words.size(); ++i) {
        const std::int64_t word = secret_word(static_cast<std::uint64_t>(member), i);
        expected[i] += word;
        if (member == position) words[i] = word;
      }
    }
    communicator->start(words.size());
    communicator->wait(deadline);
    if (!std::equal(words.begin(), words.end(), expected.begin()))
      throw PeerError("a stranger's connection took a peer's place");
    return communicator;
  }

  // splitmix64; 47 bits, so that no sum overflows.
  std::int64_t secret_word(std::uint64_t member, std::uint64_t i) const {
    std::uint64_t word = secret_ + (member << 32 | (i + 1)) * 0x9e3779b97f4a7c15u;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
    return static_cast<std::int64_t>((word ^ (word >> 31)) >> 17);
  }

  // Tells the members how this rank's attempt ended and hears the same of them, so that all go on or try
  // again alike.
  std::string first_failure(rendezvous::Store& store, const group::GroupSpec& group,
                            const std::string& prefix, const std::string& own, Deadline deadline) const {
    store.set(fmt::format("{}outcome/{}", prefix, rank_), own);
    std::string failure;
    for (const int peer : group.ranks) {
      try {
        const std::string outcome = store.get(fmt::format("{}outcome/{}", prefix, peer), deadline);
        if (failure.empty() && !outcome.empty()) failure = fmt::format("rank {}: {}", peer, outcome);
      } catch (const TimeoutError&) {
        throw TimeoutError(fmt::format("world rank {} did not connect by the deadline", peer));
      }
    }
    return failure;
  }

  const environment::WorldSpec spec_;
  const int port_;
  rendezvous::TcpStore membership_;  // its closing tells the store's server that this rank is done
  int rank_ = 0;
  std::int64_t world_ = 0;  // which of the store's worlds
  std::vector<std::string> hosts_;
  std::uint64_t secret_ = 0;  // of this world's ranks
  std::shared_ptr<gloo::transport::Device> device_;
};

std::unique_ptr<group::Engine> join(const environment::WorldSpec& spec, Deadline deadline) {
  return std::make_unique<GlooEngine>(spec, deadline);
}

const EngineEntry entry{"gloo", &join};

}  // namespace

// The link option --undefined names it, so that the linker takes this file out of an archive.
extern "C" const bool syncbn_engine_gloo = (register_engine(entry), true);

}  // namespace syncbn::engines
