#include "engines/gloo_world_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kDepartureInterval =
    std::chrono::milliseconds(250);  // between two reads of the departure list

}  // namespace

std::string departure_list(std::int64_t world) { return fmt::format("world/{}/gone", world); }

WorldStore::WorldStore(rendezvous::Store& store, std::int64_t world, std::vector<int> members)
    : store_(store),
      prefix_(fmt::format("world/{}/", world)),
      departures_(departure_list(world)),
      members_(std::move(members)) {}

void WorldStore::set(std::string_view key, std::string_view value) { store_.set(prefixed(key), value); }

std::string WorldStore::get(std::string_view key, Deadline deadline) {
  for (;;) {
    const Deadline next_check = std::min(deadline, Clock::now() + kDepartureInterval);
    try {
      return store_.get(prefixed(key), next_check);
    } catch (const TimeoutError&) {
      check_departures(deadline);
      if (next_check == deadline) throw;
    }
  }
}

std::int64_t WorldStore::add(std::string_view key, std::int64_t delta) {
  return store_.add(prefixed(key), delta);
}

void WorldStore::check_departures(Deadline deadline) {
  for (const std::int64_t count = store_.add(departures_, 0); checked_ < count; ++checked_) {
    const std::string rank = store_.get(fmt::format("{}/{}", departures_, checked_), deadline);
    if (!rank.empty() && std::find(members_.begin(), members_.end(), std::stoi(rank)) != members_.end())
      throw PeerError(fmt::format("world rank {} has ended or left the world", rank));
  }
}

}  // namespace syncbn::engines
