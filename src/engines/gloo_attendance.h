#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rendezvous/tcp_store.h"

namespace syncbn::engines {

/// Which members of a group wait in a sum and which never came, told through the store. Only a rank that
/// waits long says so, on a connection that it makes for it: sums that go well cost nothing.
class GlooAttendance {
 public:
  /// `key` names this connection of this group on the store, and no other.
  GlooAttendance(std::string host, int port, std::string token, std::string key, int rank, int size);

  /// This rank waits in sum number `sum`. A store that does not answer is not asked again. @throws
  /// Interrupted, as the next
  void waits_in(std::int64_t sum);
  /// The members that have not said so; none where the store does not answer.
  std::vector<int> absent_from(std::int64_t sum);

 private:
  rendezvous::TcpStore store() const;
  std::string counter(int rank) const;

  const std::string host_;
  const int port_;
  const std::string token_;
  const std::string key_;
  const int rank_;
  const int size_;
  std::int64_t told_ = 0;
  bool silent_ = false;
};

}  // namespace syncbn::engines
