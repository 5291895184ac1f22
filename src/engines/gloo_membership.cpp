// SPDX-License-Identifier: Apache-2.0
#include "engines/gloo_membership.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <utility>

#include "base/host_identity.h"
#include "base/long_wait.h"
#include "base/rank_list.h"
#include "engines/gloo_world_store.h"
#include "rendezvous/store_server.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kNoticeTime =
    std::chrono::seconds(1);  // for the store to take a notice while the caller waits
constexpr auto kAbsentTime = std::chrono::milliseconds(300);  // to ask which ranks are absent, during a wait
constexpr auto kMissingTime = std::chrono::milliseconds(50);  // per rank, to list the missing ranks

// Distinguishes this process from every other process, in a form that an error message can show.
std::string process_identity() {
  static const unsigned word = std::random_device()();
  return fmt::format("process {} on {} ({:08x})", getpid(), base::host_name(), word);
}

// Ranks that stores assigned to this process, by "host:port" of the store. The process keeps its rank if it
// joins again.
std::map<std::string, int> assigned_ranks;
std::mutex assigned_ranks_mutex;

}  // namespace

GlooMembership::GlooMembership(rendezvous::StoreAddress store, const environment::WorldSpec& spec,
                               Deadline deadline)
    : store_(std::move(store)), connection_(store_.connect(deadline)) {
  rank_ = spec.rank ? *spec.rank : assigned_rank(spec.size);
  if (rank_ < 0 || rank_ >= spec.size)
    throw GroupError(fmt::format("rank {}, expected one in [0, {})", rank_, spec.size));
  claim_rank(deadline);
  try {
    meet_ranks(spec.size, deadline);
  } catch (const TimeoutError&) {
    withdraw_departure_entry();  // ranks that still wait must name the missing ranks, not this rank
    unclaim_rank();
    throw;
  } catch (...) {
    unclaim_rank();
    throw;
  }
}

int GlooMembership::assigned_rank(int size) {
  const std::lock_guard lock(assigned_ranks_mutex);
  const auto [entry, is_new] = assigned_ranks.try_emplace(store_.text(), -1);
  if (entry->second < 0) entry->second = static_cast<int>(connection_.add("world/next_rank", 1)) - 1;
  if (entry->second >= size)
    throw GroupError(fmt::format("all {} ranks of the job at {} are taken", size, store_.text()));
  return entry->second;
}

void GlooMembership::claim_rank(Deadline deadline) {
  world_ = connection_.add(rendezvous::joined_counter(rank_), 1);
  const std::string key = fmt::format("world/owner/{}", rank_);
  if (world_ == 1) connection_.set(key, process_identity());
  const std::string owner = connection_.get(key, deadline);
  if (owner == process_identity())
    return connection_.append_on_disconnect(departure_list(world_), std::to_string(rank_));
  unclaim_rank();
  throw GroupError(
      fmt::format("rank {} of the job at {} is already taken by {}", rank_, store_.text(), owner));
}

// Keeps this rank's count of joins equal to the counts of its peers for a later init().
void GlooMembership::unclaim_rank() noexcept {
  try {
    store_.connect(Clock::now() + kNoticeTime).add(rendezvous::joined_counter(rank_), -1);
  } catch (...) {  // the store has ended, and the count with it; or the program wants to end
  }
}

void GlooMembership::withdraw_departure_entry() noexcept {
  try {
    connection_.set_deadline(Clock::now() + kNoticeTime);
    connection_.append_on_disconnect(departure_list(world_), "");
  } catch (...) {  // the store has ended, or the program wants to end
  }
}

void GlooMembership::note_peer_error() noexcept {
  try {
    connection_.set_deadline(Clock::now() + kNoticeTime);
    connection_.add(rendezvous::peer_error_counter(rank_), 1);
  } catch (...) {  // the store has ended, or the program wants to end
  }
}

// The ranks that have not reached the store, or all others if the store does not answer in time. The
// connection of this rank is in use.
std::vector<int> GlooMembership::absent_ranks(int size) const {
  std::vector<int> absent(static_cast<std::size_t>(size));
  std::iota(absent.begin(), absent.end(), 0);
  std::erase(absent, rank_);
  try {
    rendezvous::TcpStore store = store_.connect(Clock::now() + kAbsentTime);
    std::vector<int> found = absent;
    std::erase_if(found, [&](int rank) { return store.add(rendezvous::joined_counter(rank), 0) >= world_; });
    return found;
  } catch (const Error&) {
    return absent;
  }
}

void GlooMembership::meet_ranks(int size, Deadline deadline) {
  std::vector<int> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  WorldStore store(connection_, world_, std::move(all));
  const auto key = [](int rank) { return fmt::format("host/{}", rank); };
  store.set(key(rank_), fmt::format("{} {}", size, base::host_identity()));
  if (rank_ == 0) {
    std::random_device random;
    store.set("secret", fmt::format("{:x}{:08x}", random(), random()));
  }
  connection_.append(rendezvous::kJoinedList, std::to_string(rank_));
  const base::WaitPhrase phrase(
      [this, size] { return fmt::format("for {} to call init()", base::rank_list(absent_ranks(size))); });
  std::vector<int> missing;
  for (int peer = 0; peer < size; ++peer) {
    try {
      // After the deadline the loop goes on with a short wait per rank, so that the message names all missing
      // ranks.
      const std::string value =
          store.get(key(peer), missing.empty() ? deadline : Clock::now() + kMissingTime);
      const auto space = value.find(' ');
      if (value.substr(0, space) != std::to_string(size))
        throw GroupError(fmt::format("rank {} was started in a world of {} ranks, rank {} in one of {}", peer,
                                     value.substr(0, space), rank_, size));
      hosts_.push_back(value.substr(space + 1));
    } catch (const TimeoutError&) {
      missing.push_back(peer);
    }
  }
  if (!missing.empty())
    throw TimeoutError(
        fmt::format("rendezvous {}: {} of {} did not join", store_.text(), base::rank_list(missing), size));
  secret_ = std::stoull(store.get("secret", deadline), nullptr, 16);
}

}  // namespace syncbn::engines
