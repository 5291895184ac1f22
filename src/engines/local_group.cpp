// SPDX-License-Identifier: Apache-2.0
#include "engines/local_group.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/host_identity.h"
#include "engines/file_handoff.h"
#include "engines/rank_locks.h"
#include "engines/shared_memory.h"
#include "engines/shared_window.h"
#include "engines/window_layout.h"
#include "group/engine_buffer.h"
#include "group/wire_version.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;

// Time to hand the memory over and to sum once in it, which takes about 1 ms. If a rank cannot attach, the
// others wait as long once a group, and then use the engine.
constexpr auto kTrial = std::chrono::seconds(5);

// A rank's part of the first sum. Made of whole words.
struct Introduction {
  std::int64_t willing;        // kWindowVersion, or 0 if the rank must not or can't share memory
  std::int64_t user;           // user_number(): no memory is shared between users
  std::uint64_t process;       // random; equal for two ranks of one process, which can't use RankLocks
  std::array<char, 128> host;  // host_identity(): at most 64 + 36 + 20 characters and two spaces
  HandoffTicket ticket;        // of group rank 0's memory
};
constexpr std::size_t kIntroductionWords = sizeof(Introduction) / sizeof(std::int64_t);
static_assert(std::is_trivially_copyable_v<Introduction> &&
              std::has_unique_object_representations_v<Introduction>);

// A fork of a process has the process's random number, but another id.
std::uint64_t process_number() {
  static const std::uint64_t random = [] {
    std::random_device device;
    return std::uniform_int_distribution<std::uint64_t>()(device);
  }();
  return random + static_cast<std::uint64_t>(getpid());
}

// The user of this process, as the namespace around its user namespace numbers it. In two user namespaces
// one number may mean two users. Their ranks would find out only by a hand-over that fails, after kTrial.
std::int64_t user_number() {
  const std::int64_t own = geteuid();
  std::ifstream map("/proc/self/uid_map");
  for (std::int64_t inside, outside, count; map >> inside >> outside >> count;) {
    if (own >= inside && own - inside < count) return outside + own - inside;
  }
  return own;
}

void sum(Communicator& connected, std::size_t words, Deadline deadline) {
  connected.start(words);
  connected.wait(deadline);
}

// Each rank writes its own part of a table, so that the sum is the table.
std::vector<Introduction> exchange(Communicator& connected, const Introduction& own, Deadline deadline) {
  std::vector<Introduction> table(static_cast<std::size_t>(connected.size()));
  const auto words = group::engine_buffer(connected, table.size() * kIntroductionWords);
  std::ranges::fill(words, 0);
  std::memcpy(words.data() + static_cast<std::size_t>(connected.rank()) * kIntroductionWords, &own,
              sizeof own);
  sum(connected, words.size(), deadline);
  std::memcpy(static_cast<void*>(table.data()), words.data(), words.size_bytes());
  return table;
}

bool may_share(const std::vector<Introduction>& table) {
  std::set<std::uint64_t> processes;
  for (const Introduction& rank : table) {
    if (rank.willing != kWindowVersion || rank.user != table[0].user || rank.host != table[0].host)
      return false;
    processes.insert(rank.process);
  }
  return processes.size() == table.size();
}

Introduction introduce(bool allowed, const std::optional<FileHandoff>& handoff) {
  Introduction own{};
  own.willing = allowed ? kWindowVersion : 0;
  own.user = user_number();
  own.process = process_number();
  const std::string host = base::host_identity();
  std::copy_n(host.begin(), std::min(host.size(), own.host.size()), own.host.begin());
  if (handoff) own.ticket = handoff->ticket();
  return own;
}

// Gets the memory from group rank 0, or makes it there and hands it out.
std::shared_ptr<const SharedMemory> obtain_memory(const WindowShape& shape, int rank,
                                                  std::optional<FileHandoff>& handoff,
                                                  const HandoffTicket& ticket, Deadline deadline) {
  const std::size_t bytes = WindowLayout::bytes(shape);
  std::shared_ptr<const SharedMemory> memory;
  if (handoff) {
    memory = std::make_shared<const SharedMemory>(bytes);
  } else {
    memory = std::make_shared<const SharedMemory>(receive_file(ticket, deadline), bytes);
  }
  lock_rank(memory->file(), rank);
  if (handoff) handoff->hand_to(shape.ranks - 1, memory->file(), deadline);
  return memory;
}

// Sums once in the memory, so that all ranks have attached and see the same memory. @throws what went wrong
std::unique_ptr<SharedWindow> try_window(const std::vector<Introduction>& table, int rank,
                                         std::optional<FileHandoff>& handoff, Deadline deadline) {
  const WindowShape shape{static_cast<int>(table.size()), kSlotWords};
  const auto memory = obtain_memory(shape, rank, handoff, table[0].ticket, deadline);
  auto window = std::make_unique<SharedWindow>(memory, shape, rank);
  std::uint64_t expected = 0;
  for (const Introduction& introduction : table) expected += introduction.process;
  const auto word = window->buffer(1);
  word[0] = static_cast<std::int64_t>(table[static_cast<std::size_t>(rank)].process);
  sum(*window, 1, deadline);
  if (word[0] != static_cast<std::int64_t>(expected)) throw PeerError("the ranks see different memories");
  const auto lives = [memory](int other) { return is_rank_locked(memory->file(), other); };
  for (int other = 0; other < shape.ranks; ++other) {
    if (other != rank && !lives(other)) throw PeerError(fmt::format("rank {} can't be watched", other));
  }
  window->watch(lives);
  return window;
}

// A window and the communicator over which its ranks agreed on it. That one stays open: a rank that is late
// may still be in its last sum.
class LocalGroup final : public Communicator {
 public:
  LocalGroup(std::unique_ptr<Communicator> connected, std::unique_ptr<Communicator> window)
      : connected_(std::move(connected)), window_(std::move(window)) {}

  int rank() const override { return window_->rank(); }
  int size() const override { return window_->size(); }
  std::span<std::int64_t> buffer(std::size_t words) override { return window_->buffer(words); }
  void start(std::size_t words) override { window_->start(words); }
  void wait(Deadline deadline) override { window_->wait(deadline); }
  void abort() noexcept override { window_->abort(); }

 private:
  const std::unique_ptr<Communicator> connected_;
  const std::unique_ptr<Communicator> window_;
};

}  // namespace

std::unique_ptr<Communicator> share_memory_on_one_host(std::unique_ptr<Communicator>&& connected,
                                                       bool allowed, Deadline deadline) {
  group::check_wire_version(*connected, deadline);
  if (connected->size() > kMaxWindowRanks) return std::move(connected);  // all ranks see the same size
  const int rank = connected->rank();
  std::optional<FileHandoff> handoff;
  try {
    if (allowed && rank == 0) handoff.emplace();
  } catch (const std::exception&) {
    allowed = false;
  }
  const auto table = exchange(*connected, introduce(allowed, handoff), deadline);
  if (!may_share(table)) return std::move(connected);
  std::unique_ptr<SharedWindow> window;
  try {
    window = try_window(table, rank, handoff, std::min(deadline, Clock::now() + kTrial));
  } catch (const std::exception&) {  // this host, or this container, does not allow it
    handoff.reset();                 // refuses the ranks that still want the memory
  }
  const auto word = group::engine_buffer(*connected, 1);
  word[0] = window != nullptr ? 1 : 0;
  sum(*connected, 1, deadline);
  if (word[0] != connected->size()) return std::move(connected);
  return std::make_unique<LocalGroup>(std::move(connected), std::move(window));
}

}  // namespace syncbn::engines
