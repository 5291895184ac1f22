// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rendezvous/store.h"
#include "syncbn/error.h"

namespace syncbn::engines {

/// Name of the list in the store to which a rank of world number `world` is added when its connection ends.
/// An empty entry belongs to a rank that withdrew its own.
inline std::string departure_list(std::int64_t world) { return fmt::format("world/{}/gone", world); }

/// The part of a job's store that belongs to one world. Ranks may leave their world and join another one on
/// the same store. All members need the keys for which get() waits, so the wait ends with a PeerError if a
/// member has departed.
class WorldStore final : public rendezvous::Store {
 public:
  WorldStore(rendezvous::Store& store, std::int64_t world, std::vector<int> members)
      : store_(store),
        prefix_(fmt::format("world/{}/", world)),
        departures_(departure_list(world)),
        members_(std::move(members)) {}

  void set(std::string_view key, std::string_view value) override { store_.set(prefixed(key), value); }
  std::string get(std::string_view key, Deadline deadline) override {
    for (;;) {
      const Deadline next_check = std::min(deadline, std::chrono::steady_clock::now() + kCheckInterval);
      try {
        return store_.get(prefixed(key), next_check);
      } catch (const TimeoutError&) {
        check_departures(deadline);
        if (next_check == deadline) throw;
      }
    }
  }
  std::int64_t add(std::string_view key, std::int64_t delta) override {
    return store_.add(prefixed(key), delta);
  }

 private:
  static constexpr auto kCheckInterval = std::chrono::milliseconds(250);

  std::string prefixed(std::string_view key) const { return prefix_ + std::string(key); }

  void check_departures(Deadline deadline) {
    for (const std::int64_t count = store_.add(departures_, 0); checked_ < count; ++checked_) {
      const std::string rank = store_.get(fmt::format("{}/{}", departures_, checked_), deadline);
      if (!rank.empty() && std::find(members_.begin(), members_.end(), std::stoi(rank)) != members_.end())
        throw PeerError(fmt::format("world rank {} has ended or left the world", rank));
    }
  }

  rendezvous::Store& store_;
  const std::string prefix_;
  const std::string departures_;
  const std::vector<int> members_;
  std::int64_t checked_ = 0;  // number of entries of the departure list that were read
};

}  // namespace syncbn::engines
