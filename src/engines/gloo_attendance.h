// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rendezvous/tcp_store.h"

namespace syncbn::engines {

/// Tells the members of a group through the store which of them wait in a sum and which never came. A rank
/// reports only a long wait, on a connection that it opens for the report. A sum that goes well costs
/// nothing.
class GlooAttendance {
 public:
  /// `key` names this connection of this group in the store. No other connection has the same key.
  GlooAttendance(rendezvous::StoreAddress address, std::string key, int rank, int size);

  /// Reports that this rank waits in sum number `sum`. If the store does not answer, it is not used again.
  /// @throws Interrupted, as absent_from() does
  void report_waiting(std::int64_t sum);
  /// The members that have not reported that they wait in this sum. Empty if the store does not answer.
  std::vector<int> absent_from(std::int64_t sum);

 private:
  rendezvous::TcpStore connect() const;
  std::string counter(int rank) const;

  const rendezvous::StoreAddress address_;
  const std::string key_;
  const int rank_;
  const int size_;
  std::int64_t reported_ = 0;  // number of the last reported sum
  bool unavailable_ = false;
};

}  // namespace syncbn::engines
