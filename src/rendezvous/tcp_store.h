#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "rendezvous/socket.h"
#include "rendezvous/store.h"

namespace syncbn::rendezvous {

/// The store belongs to another job, or to another start of this one.
class TokenRefused : public PeerError {
 public:
  using PeerError::PeerError;
};

/// The store holds as much as it may; what was asked is not done.
class StoreFull : public GroupError {
 public:
  using GroupError::GroupError;
};

/// Client of a StoreServer: one connection, one request at a time. A get that waits holds the others up, so
/// work that goes on at the same time takes a TcpStore each.
class TcpStore : public Store {
 public:
  /// Connects, trying again while nothing listens or the connection is closed at once, and presents `token`.
  /// `deadline` also bounds set() and all that changes the store.
  /// @throws TimeoutError; TokenRefused; PeerError: something else listens there
  TcpStore(const std::string& host, int port, const std::string& token, Deadline deadline);

  /// @throws also InvalidArgument: key and value are longer than about 1 MiB; StoreFull, as add() does
  void set(std::string_view key, std::string_view value) override;
  std::string get(std::string_view key, Deadline deadline) override;
  std::int64_t add(std::string_view key, std::int64_t delta) override;
  /// Adds 1 to the counter `list` and sets the key "<list>/<what it was>": all see the values in one order.
  void append(std::string_view list, std::string_view value);
  /// What the server appends to `list` when this connection ends, however that comes; the last will counts.
  void leave_will(std::string_view list, std::string_view value);

  /// A new one in place of the constructor's.
  void set_deadline(Deadline deadline);
  /// From any thread: what waits or is asked later gets a PeerError at once.
  void interrupt() noexcept;
  std::string local_address() const { return rendezvous::local_address(socket_.get()); }

 private:
  void change(char operation, std::string_view key, std::string_view value);
  std::string request(char operation, std::string_view key, std::string_view value, Deadline deadline);

  const std::string where_;  // "host:port", for messages
  std::atomic<Deadline> deadline_;
  base::Fd socket_;   // stays the same after construction
  std::mutex mutex_;  // guards what is sent and read there, and all below
  std::uint32_t number_ = 0;
  std::string in_;
};

}  // namespace syncbn::rendezvous
