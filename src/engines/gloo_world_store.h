#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rendezvous/store.h"

namespace syncbn::engines {

/// Name of the list in the store to which a rank of world number `world` is added when its connection ends.
/// An empty entry belongs to a rank that withdrew its own.
std::string departure_list(std::int64_t world);

/// The part of a job's store that belongs to one world. Ranks may leave their world and join another one on
/// the same store. All members need the keys for which get() waits, so the wait ends with a PeerError if a
/// member has departed.
class WorldStore final : public rendezvous::Store {
 public:
  WorldStore(rendezvous::Store& store, std::int64_t world, std::vector<int> members);
  void set(std::string_view key, std::string_view value) override;
  std::string get(std::string_view key, Deadline deadline) override;
  std::int64_t add(std::string_view key, std::int64_t delta) override;

 private:
  std::string prefixed(std::string_view key) const { return prefix_ + std::string(key); }
  void check_departures(Deadline deadline);

  rendezvous::Store& store_;
  const std::string prefix_;
  const std::string departures_;
  const std::vector<int> members_;
  std::int64_t checked_ = 0;  // number of entries of the departure list that were read
};

}  // namespace syncbn::engines
