#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "rendezvous/store_protocol.h"
#include "syncbn/communicator.h"

namespace syncbn::rendezvous {

/// Serves the key-value board of store.h over TCP to the ranks of one job (TcpStore is the client). One
/// thread that sleeps in poll(); a client that is slow, silent, half open or speaks garbage disturbs nobody
/// but itself.
class StoreServer {
 public:
  /// Listens on `host` alone, a name or a numeric address of this machine; port 0 takes a free one. A client
  /// must present `token`. @throws GroupError where the address can't be listened on, naming it and the
  /// system's reason.
  StoreServer(const std::string& host, int port, std::string token, const StoreLimits& limits = {});
  ~StoreServer();  ///< stop()

  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

  int port() const;
  /// Closes every connection and ends the thread; takes milliseconds. Nothing happens the second time.
  void stop() noexcept;

  /// Takes no more connections; those that are there go on.
  void refuse_newcomers() noexcept;
  /// Waits until no client that presented the token is connected. False: some still are at the deadline.
  bool wait_until_idle(Deadline deadline) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// The ranks that have joined the store of a job, a list in the order of their coming (TcpStore::append).
inline constexpr std::string_view kJoinedList = "world/joined";
/// Counts the joins of one rank: a rank adds to it when it reaches the store, before it waits for the others.
/// What the launcher looks at to name the ranks that never came.
inline std::string joined_counter(int rank) { return std::string(kJoinedList) + "/" + std::to_string(rank); }
/// Counts the calls of one rank that failed because of a peer: the launcher looks for the cause elsewhere
/// then.
inline std::string peer_error_counter(int rank) { return "world/peer_errors/" + std::to_string(rank); }

}  // namespace syncbn::rendezvous
