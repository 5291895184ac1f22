#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "group/socket.h"
#include "group/store.h"

namespace syncbn::group {

/// Client of a StoreServer: one connection, one request at a time. A get that waits holds the others up, so
/// work that goes on at the same time takes a TcpStore each.
class TcpStore : public Store {
 public:
  /// Connects, trying again while nothing listens, and presents `token`. `deadline` also bounds set() and
  /// add().
  /// @throws TimeoutError; PeerError: the token was refused, or something else listens there
  TcpStore(const std::string& host, int port, const std::string& token, Deadline deadline);

  /// @throws also InvalidArgument: key and value are longer than about 1 MiB
  void set(std::string_view key, std::string_view value) override;
  std::string get(std::string_view key, Deadline deadline) override;
  std::int64_t add(std::string_view key, std::int64_t delta) override;

  std::string local_address() const { return group::local_address(socket_.get()); }

 private:
  std::string request(char operation, std::string_view key, std::string_view value, Deadline deadline);

  const std::string where_;  // "host:port", for messages
  const Deadline deadline_;
  std::mutex mutex_;  // guards all below
  Fd socket_;
  std::uint32_t number_ = 0;
  std::string in_;
};

}  // namespace syncbn::group
