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

/// What clients may make a store hold. A connection takes one request and one answer besides, 1 MiB each
/// (4 KiB before the token).
struct StoreLimits {
  /// Connections that have not presented the token; the oldest goes when there are more. A quarter of the
  /// 1,024 descriptors that a process usually has; a rank presents its token as soon as it is connected, and
  /// one that went with the strangers tries again.
  int strangers = 256;
  /// Connections that have presented the token; a further one is refused. See members_of().
  int members = 1 << 16;
  /// Keys, values, counters and wills; what would go beyond is refused. Gloo's addresses are the most of it:
  /// N ranks store 136 N^2 bytes for each group, 570 MB for 2,048. A process that is told to store without
  /// end leaves its machine usable.
  std::size_t held_bytes = std::size_t{4} << 30;
};

/// Connections that a job of `ranks` needs at most: a rank has one for life and one more for each group that
/// connects at this moment, in a thread of its own; a launcher has three.
inline int members_of(int ranks) { return 64 * ranks; }

/// The key-value board of store.h and its protocol (store_wire.h) without sockets: what clients send, and
/// what is to be sent to them, are strings. Holds what the limits allow, whatever the bytes are. Not
/// thread-safe.
class StoreProtocol {
 public:
  struct Connection {
    std::string in;   ///< Received and not answered; grows no more while there is something to do.
    std::string out;  ///< To be sent.

    bool is_member() const { return member_; }  ///< It presented the token.
    bool is_over() const { return over_; }      ///< To be dropped when `out` is sent.
    /// A whole request, or the announcement of one that is too long, lies in `in`: there is something to do
    /// without another byte.
    bool has_request() const;

   private:
    friend StoreProtocol;
    bool member_ = false;
    bool over_ = false;
    std::optional<std::pair<std::uint32_t, std::string>> waits_;  // number and key of a get without a value
    std::optional<std::pair<std::string, std::string>> will_;     // list and value
  };
  using Handle = std::list<Connection>::iterator;

  StoreProtocol(std::string token, const StoreLimits& limits);

  Handle connect();
  /// Its will is read.
  void disconnect(Handle connection);
  /// Answers the request that has_request() tells of; others that waited for it may be answered too. False:
  /// what came is none of this protocol, and the connection is to be dropped at once.
  bool answer(Connection& connection);

  int members() const { return members_; }
  std::size_t held_bytes() const { return held_; }  ///< Never more than the limit.

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
  std::map<std::string, std::uint64_t> counters_;  // two's complement, so that they wrap
  std::size_t held_ = 0;                           // what values, counters and wills take
};

}  // namespace syncbn::rendezvous
