// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "syncbn/communicator.h"
#include "syncbn/error.h"

/// TCP sockets for the rendezvous. Every wait has a deadline, no call raises SIGPIPE, and no descriptor
/// survives an exec.
namespace syncbn::rendezvous {

/// The address does not belong to this machine, or another process listens on it.
class AddressUnavailable : public GroupError {
 public:
  using GroupError::GroupError;
};

/// The name has no address that belongs to this machine.
class AddressElsewhere : public AddressUnavailable {
 public:
  using AddressUnavailable::AddressUnavailable;
};

/// The connection was closed or reset, or the peer's machine does not answer.
class ConnectionLost : public PeerError {
 public:
  using PeerError::PeerError;
};

/// A non-blocking listening socket on the first address of `host` that belongs to this machine. If `host` is
/// empty, the socket listens on all addresses. Port 0 takes a free port.
/// @throws AddressElsewhere, AddressUnavailable or another GroupError, each with the address and the system's
/// reason
base::Fd listen_on(const std::string& host, int port);
/// Waits up to 10 s until `host` has an address, because a name may be registered late. @throws GroupError
/// with the name
void wait_for_name(const std::string& host, Deadline deadline);
/// A non-blocking connection. Tries again while the connection is refused, because the server may start last.
/// @throws TimeoutError with the address and the last reason; GroupError as wait_for_name()
base::Fd connect_to(const std::string& host, int port, Deadline deadline);
/// Makes the kernel break the connection if the peer's machine has not answered for 10 s. A machine that has
/// lost its power or its network closes no connection. connect_to() already calls this function.
void notice_silence(int socket);

int local_port(int socket);
std::string local_address(int socket);  ///< Numeric, "127.0.0.1" or "fe80::1".

/// @throws TimeoutError, ConnectionLost
void send_all(int socket, std::string_view bytes, Deadline deadline);
/// Waits for bytes and appends them to `bytes`. @throws TimeoutError, ConnectionLost
void recv_some(int socket, std::string& bytes, Deadline deadline);

}  // namespace syncbn::rendezvous
