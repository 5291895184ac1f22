// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "rendezvous/store_wire.h"

namespace syncbn::rendezvous {

/// Limits of what clients may make a store hold. In addition, each connection holds at most one request and
/// one reply of 1 MiB each (4 KiB before the token).
struct StoreLimits {
  /// Connections that have not presented the token. If there are more, the oldest is closed. The limit is a
  /// quarter of the 1,024 descriptors that a process usually has. A rank presents its token as soon as it is
  /// connected, and tries again if its connection was closed.
  int unauthenticated = 256;
  /// Connections that have presented the token. Further ones are refused. See members_of().
  int members = 1 << 16;
  /// Bytes of keys, values, counters and values to append on disconnect. A request beyond the limit is
  /// refused, so that the machine stays usable whatever clients send. Most of it are Gloo's addresses: N
  /// ranks store 136 N^2 bytes for each group, 570 MB for 2,048 ranks.
  std::size_t held_bytes = std::size_t{4} << 30;
};

/// Maximum number of connections of a job with `ranks` ranks. A rank has one connection for its lifetime and
/// one more for each group that is connecting in a separate thread. A launcher has three.
inline int members_of(int ranks) { return 64 * ranks; }

/// The server's side of the store and its protocol (store_wire.h) without sockets: requests and replies are
/// strings. It keeps the limits for any input. Not thread-safe.
class StoreProtocol {
 public:
  struct Connection {
    std::string in;   ///< Received bytes that are not answered. Must not grow while has_request() is true.
    std::string out;  ///< Bytes to send.

    bool is_member() const { return member_; }  ///< The client has presented the token.
    bool is_over() const { return over_; }      ///< The connection must be closed when `out` is sent.
    /// True if `in` has a whole request, or the length of a request that is too long. The protocol can then
    /// go on without further bytes.
    bool has_request() const;

   private:
    friend StoreProtocol;
    bool member_ = false;
    bool over_ = false;
    std::optional<std::pair<std::uint32_t, std::string>> waits_;  // number and key of a get() that waits
    std::optional<std::pair<std::string, std::string>> on_disconnect_;  // list and value
  };
  using Handle = std::list<Connection>::iterator;

  StoreProtocol(std::string token, const StoreLimits& limits);

  Handle connect();
  /// Appends the value of append_on_disconnect, if there is one.
  void disconnect(Handle connection);
  /// Answers the request in `in`, and other connections that waited for its key. Requires has_request().
  /// Returns false if the bytes do not follow the protocol; the connection must then be closed at once.
  bool answer(Connection& connection);

  int members() const { return members_; }
  std::size_t held_bytes() const { return held_; }  ///< At most the limit.

 private:
  bool answer(Connection& connection, const wire::Request& request);
  void greet(Connection& connection, const wire::Request& request);
  bool room_for(std::size_t size) const;
  bool reply_if_room(Connection& connection, const wire::Request& request, std::size_t size);
  void publish(std::string_view key, std::string_view value);
  std::uint64_t& counter(const std::string& name);
  void append(std::string_view list, std::string_view value);

  const std::string token_;
  const StoreLimits limits_;
  std::list<Connection> connections_;
  int members_ = 0;
  std::map<std::string, std::string, std::less<>> values_;
  std::map<std::string, std::uint64_t> counters_;  // unsigned, so that they wrap
  std::size_t held_ = 0;  // bytes of values, counters and values to append on disconnect
};

}  // namespace syncbn::rendezvous
