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
#include <map>
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

// Ranks of a group on several hosts. Bounds the table: 188 KB.
constexpr int kMaxRanks = 1024;

// Time to hand the memory over and to sum once in it, which takes about 1 ms. If a rank cannot attach, the
// others wait as long once a group, and then use the engine.
constexpr auto kTrial = std::chrono::seconds(5);

// A rank's part of the first sum. Made of whole words.
struct Introduction {
  std::int64_t willing;        // kWindowVersion, or 0 if the rank must not or can't share memory
  std::int64_t user;           // user_number(): no memory is shared between users
  std::uint64_t process;       // random; equal for two ranks of one process, which can't use RankLocks
  std::array<char, 128> host;  // host_identity(): at most 64 + 36 + 20 characters and two spaces
  HandoffTicket ticket;        // of the memory that the rank hands out if it is its host's leader
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

// The hosts of a group. Ranks are in ascending order.
struct Hosts {
  std::vector<int> own;      // the ranks of this rank's host; the first one is its leader
  std::vector<int> leaders;  // the first rank of each host
};

// Nothing if the ranks must not share memory, or have none to share.
std::optional<Hosts> find_hosts(const std::vector<Introduction>& table, int rank) {
  std::set<std::uint64_t> processes;
  std::map<std::pair<std::int64_t, decltype(Introduction::host)>, std::vector<int>> hosts;
  for (int r = 0; std::cmp_less(r, table.size()); ++r) {
    const Introduction& introduction = table[static_cast<std::size_t>(r)];
    if (introduction.willing != kWindowVersion) return std::nullopt;
    processes.insert(introduction.process);
    hosts[{introduction.user, introduction.host}].push_back(r);
  }
  if (processes.size() != table.size() || hosts.size() == table.size()) return std::nullopt;
  Hosts found;
  for (const auto& [host, ranks] : hosts) {
    if (std::cmp_greater(ranks.size(), kMaxWindowRanks)) return std::nullopt;
    found.leaders.push_back(ranks.front());
    if (std::ranges::binary_search(ranks, rank)) found.own = ranks;
  }
  std::ranges::sort(found.leaders);
  return found;
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

// Gets the memory from the host's leader, or makes it there and hands it out.
std::shared_ptr<const SharedMemory> obtain_memory(const WindowShape& shape, int rank, FileHandoff& handoff,
                                                  const HandoffTicket& ticket, Deadline deadline) {
  const std::size_t bytes = WindowLayout::bytes(shape);
  std::shared_ptr<const SharedMemory> memory;
  if (rank == 0) {
    memory = std::make_shared<const SharedMemory>(bytes);
  } else {
    memory = std::make_shared<const SharedMemory>(receive_file(ticket, deadline), bytes);
  }
  lock_rank(memory->file(), rank);
  if (rank == 0) handoff.hand_to(shape.ranks - 1, memory->file(), deadline);
  return memory;
}

// Sums once in the memory of this host, so that all its ranks have attached and see the same memory.
// @throws what went wrong
std::unique_ptr<SharedWindow> try_window(const std::vector<Introduction>& table,
                                         const std::vector<int>& members, int group_rank,
                                         FileHandoff& handoff, Deadline deadline) {
  const WindowShape shape{static_cast<int>(members.size()), kSlotWords};
  const int rank = static_cast<int>(std::ranges::lower_bound(members, group_rank) - members.begin());
  const auto introduction = [&](int member) -> const Introduction& {
    return table[static_cast<std::size_t>(members[static_cast<std::size_t>(member)])];
  };
  const auto memory = obtain_memory(shape, rank, handoff, introduction(0).ticket, deadline);
  auto window = std::make_unique<SharedWindow>(memory, shape, rank);
  std::uint64_t expected = 0;
  for (int member = 0; member < shape.ranks; ++member) expected += introduction(member).process;
  const auto word = window->buffer(1);
  word[0] = static_cast<std::int64_t>(introduction(rank).process);
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

  int rank() const override { return connected_->rank(); }
  int size() const override { return connected_->size(); }
  std::span<std::int64_t> buffer(std::size_t words) override { return window_->buffer(words); }
  void start(std::size_t words) override { window_->start(words); }
  void wait(Deadline deadline) override { window_->wait(deadline); }
  void abort() noexcept override { window_->abort(); }

 private:
  const std::unique_ptr<Communicator> connected_;
  const std::unique_ptr<Communicator> window_;
};

}  // namespace

std::unique_ptr<Communicator> share_memory_of_hosts(std::unique_ptr<Communicator>&& connected, bool allowed,
                                                    Deadline deadline) {
  group::check_wire_version(*connected, deadline);
  if (connected->size() > kMaxRanks) return std::move(connected);  // all ranks see the same size
  const int rank = connected->rank();
  std::optional<FileHandoff> handoff;
  try {
    if (allowed) handoff.emplace();
  } catch (const std::exception&) {
    allowed = false;
  }
  const auto table = exchange(*connected, introduce(allowed, handoff), deadline);
  const auto hosts = find_hosts(table, rank);
  auto* const group = dynamic_cast<MultiHostCommunicator*>(connected.get());
  if (!hosts || (hosts->leaders.size() > 1 && group == nullptr)) return std::move(connected);
  std::unique_ptr<SharedWindow> window;
  std::unique_ptr<MultiHostCommunicator> between;
  const bool needs_between = hosts->leaders.size() > 1 && rank == hosts->own.front();
  try {
    window = try_window(table, hosts->own, rank, *handoff, std::min(deadline, Clock::now() + kTrial));
  } catch (const std::exception&) {  // this host, or this container, does not allow it
  }
  handoff.reset();  // refuses the ranks that still want the memory
  try {
    if (needs_between) between = group->connect_leaders(hosts->leaders, deadline);  // the other leaders wait
  } catch (const std::exception&) {
  }
  const auto word = group::engine_buffer(*connected, 1);
  word[0] = window != nullptr && (between != nullptr || !needs_between) ? 1 : 0;
  sum(*connected, 1, deadline);
  if (word[0] != connected->size()) return std::move(connected);
  if (hosts->leaders.size() > 1) window->span_hosts(hosts->own, *group, std::move(between));
  return std::make_unique<LocalGroup>(std::move(connected), std::move(window));
}

}  // namespace syncbn::engines
