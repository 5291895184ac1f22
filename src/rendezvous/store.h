// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "syncbn/communicator.h"

namespace syncbn::rendezvous {

/// Key-value store at which the ranks meet before they are connected. Keys and values are bytes.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(std::string_view key, std::string_view value) = 0;
  /// Waits until the key is set. @throws TimeoutError with the key; PeerError if the store is gone
  virtual std::string get(std::string_view key, Deadline deadline) = 0;
  /// Adds to a counter that starts at 0 and returns the new value. Counters and keys have separate names.
  virtual std::int64_t add(std::string_view key, std::int64_t delta) = 0;
};

}  // namespace syncbn::rendezvous
