// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "rendezvous/store_protocol.h"
#include "syncbn/communicator.h"

namespace syncbn::rendezvous {

/// Serves the store of one job over TCP. TcpStore is the client. The server has one thread, which sleeps in
/// poll(). A client that is slow, silent, half open or sends garbage does not disturb other clients.
class StoreServer {
 public:
  /// Listens on `host` alone, a name or a numeric address of this machine. Port 0 takes a free port. Clients
  /// must present `token`. @throws GroupError with the address and the system's reason if it cannot listen
  /// there
  StoreServer(const std::string& host, int port, std::string token, const StoreLimits& limits = {});
  ~StoreServer();  ///< Calls stop().

  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

  int port() const;
  /// Closes every connection and ends the thread, within milliseconds. A second call has no effect.
  void stop() noexcept;

  /// Accepts no more connections. Existing connections continue.
  void refuse_newcomers() noexcept;
  /// Waits until no client that has presented the token is connected. Returns false at the deadline.
  bool wait_until_idle(Deadline deadline) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// List of the ranks that have joined the store of a job, in the order of joining (TcpStore::append).
inline constexpr std::string_view kJoinedList = "world/joined";
/// Counter of one rank's joins. A rank increments it when it reaches the store, before it waits for the
/// others.
inline std::string joined_counter(int rank) { return std::string(kJoinedList) + "/" + std::to_string(rank); }
/// Counter of one rank's calls that failed because of a peer. If it is not 0, the launcher looks for the
/// cause at other ranks.
inline std::string peer_error_counter(int rank) { return "world/peer_errors/" + std::to_string(rank); }

}  // namespace syncbn::rendezvous
