// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "rendezvous/socket.h"
#include "rendezvous/store.h"

namespace syncbn::rendezvous {

namespace wire {
enum class Operation : std::uint8_t;
}

/// The store belongs to another job, or to another start of the same job.
class TokenRefused : public PeerError {
 public:
  using PeerError::PeerError;
};

/// The store has reached one of its limits and has not carried out the request.
class StoreFull : public GroupError {
 public:
  using GroupError::GroupError;
};

/// Client of a StoreServer: one connection, one request at a time. A get() that waits blocks all other
/// requests, so threads that work at the same time need a TcpStore each.
class TcpStore : public Store {
 public:
  /// Connects and presents `token`. Tries again while nothing listens there or the connection is closed at
  /// once. `deadline` also applies to set() and all other functions that change the store.
  /// @throws TimeoutError; TokenRefused; StoreFull; GroupError if the name has no address; PeerError if the
  /// listener is not a syncbn store
  TcpStore(const std::string& host, int port, const std::string& token, Deadline deadline);

  /// @throws as Store::set(); InvalidArgument if key and value are longer than about 1 MiB; StoreFull, as
  /// add()
  void set(std::string_view key, std::string_view value) override;
  std::string get(std::string_view key, Deadline deadline) override;
  std::int64_t add(std::string_view key, std::int64_t delta) override;
  /// Adds 1 to the counter `list` and sets the key "<list>/<old value of the counter>". So all clients see
  /// the values of a list in the same order.
  void append(std::string_view list, std::string_view value);
  /// Makes the server append `value` to `list` when this connection ends for any reason. A later call
  /// replaces an earlier one.
  void append_on_disconnect(std::string_view list, std::string_view value);

  /// Replaces the constructor's deadline.
  void set_deadline(Deadline deadline);
  /// Makes the current request and all later ones fail at once with a PeerError. May be called from any
  /// thread.
  void interrupt() noexcept;
  std::string local_address() const { return rendezvous::local_address(socket_.get()); }

 private:
  void change(wire::Operation operation, std::string_view key, std::string_view value);
  std::string request(wire::Operation operation, std::string_view key, std::string_view value,
                      Deadline deadline);

  const std::string where_;  // "host:port", for messages
  std::atomic<Deadline> deadline_;
  base::Fd socket_;   // constant after construction
  std::mutex mutex_;  // guards requests on the socket, and all members below
  std::uint32_t number_ = 0;
  std::string in_;
};

/// Address of a job's store, and the job's secret.
struct StoreAddress {
  std::string host;
  int port = 0;
  std::string token;

  /// @throws as TcpStore's constructor
  TcpStore connect(Deadline deadline) const { return {host, port, token, deadline}; }
  std::string text() const { return host + ":" + std::to_string(port); }  ///< "host:port", for messages.
};

}  // namespace syncbn::rendezvous
