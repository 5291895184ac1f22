// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "environment/world_spec.h"
#include "rendezvous/tcp_store.h"

namespace syncbn::engines {

/// This process as one rank of a world on the job's store. It claims the rank, meets the other ranks, and
/// holds the connection whose end tells the store that the rank has departed.
class GlooMembership {
 public:
  /// Joins the world. Returns from the constructor when all ranks have joined.
  /// @throws GroupError if the rank is already taken, or the ranks expect worlds of different sizes;
  /// TimeoutError with the ranks that did not join; PeerError
  GlooMembership(rendezvous::StoreAddress store, const environment::WorldSpec& spec, Deadline deadline);

  const rendezvous::StoreAddress& store() const { return store_; }  ///< The job's store.
  int rank() const { return rank_; }
  /// Number of the world on the store, from 1. The worlds of a store are numbered by how often each rank has
  /// joined, so all ranks of a world have the same number.
  std::int64_t world() const { return world_; }
  const std::vector<std::string>& hosts() const { return hosts_; }
  /// A random number that only the ranks of this world know.
  std::uint64_t secret() const { return secret_; }
  /// This machine's address on the connection to the store.
  std::string local_address() const { return connection_.local_address(); }
  /// Counts a PeerError of this rank on the store, where the launcher reads it.
  void note_peer_error() noexcept;

 private:
  int assigned_rank(int size);
  void claim_rank(Deadline deadline);
  void unclaim_rank() noexcept;
  void withdraw_departure_entry() noexcept;
  std::vector<int> absent_ranks(int size) const;
  void meet_ranks(int size, Deadline deadline);

  const rendezvous::StoreAddress store_;
  rendezvous::TcpStore connection_;
  int rank_ = 0;
  std::int64_t world_ = 0;
  std::vector<std::string> hosts_;
  std::uint64_t secret_ = 0;
};

}  // namespace syncbn::engines
