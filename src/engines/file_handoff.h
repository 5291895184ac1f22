// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/file_descriptor.h"
#include "syncbn/communicator.h"

/// Hands an open file from one process to others on the same host, over an abstract Unix socket.
///
/// An abstract socket has no file, so nothing is left of it. It reaches every process of the network
/// namespace, also in other process, user and mount namespaces. Both sides check that the other one runs as
/// the same user.
namespace syncbn::engines {

/// The name of the socket and the secret that a receiver must show. Both are random, so a process that does
/// not have the ticket can neither guess the name nor pass for a receiver. Names of sockets can be read in
/// /proc/net/unix, secrets can't.
struct HandoffTicket {
  std::array<std::uint64_t, 2> name{};
  std::array<std::uint64_t, 2> secret{};
};

class FileHandoff {
 public:
  /// Listens for receivers. @throws std::system_error
  FileHandoff();
  const HandoffTicket& ticket() const { return ticket_; }
  /// Hands `file` to `receivers` processes that show the secret, and to no other process.
  /// @throws TimeoutError saying how many did not come; std::system_error
  void hand_to(int receivers, int file, Deadline deadline);

 private:
  const HandoffTicket ticket_;
  const base::Fd listener_;
};

/// Gets the file from the process that has this ticket's FileHandoff.
/// @throws std::system_error; PeerError: the process runs as another user, or sent no file; TimeoutError
base::Fd receive_file(const HandoffTicket& ticket, Deadline deadline);

}  // namespace syncbn::engines
