#pragma once

#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "syncbn/communicator.h"
#include "syncbn/error.h"

/// TCP sockets for the rendezvous. Every wait has a deadline, no call raises SIGPIPE, no descriptor survives
/// an exec.
namespace syncbn::rendezvous {

/// The address is no address of this machine, or another process listens there.
class AddressUnavailable : public GroupError {
 public:
  using GroupError::GroupError;
};

/// No address of the name is this machine's.
class AddressElsewhere : public AddressUnavailable {
 public:
  using AddressUnavailable::AddressUnavailable;
};

/// The connection was closed or reset, or the peer's machine fell silent.
class ConnectionLost : public PeerError {
 public:
  using PeerError::PeerError;
};

/// A non-blocking listening socket on the first address of `host` that this machine has, on all of its
/// addresses where `host` is empty; port 0 takes a free one.
/// @throws AddressElsewhere, AddressUnavailable, or another GroupError; all name the address and the system's
/// reason
base::Fd listen_on(const std::string& host, int port);
/// Returns when `host` has an address: a name may be entered late. @throws TimeoutError naming it
void wait_for_name(const std::string& host, Deadline deadline);
/// A non-blocking connection. Tries again while it is refused, for the server may start last.
/// @throws TimeoutError naming the address and the last reason
base::Fd connect_to(const std::string& host, int port, Deadline deadline);
/// Breaks the connection when the peer's machine has not answered for 10 s: one without power, or without a
/// cable, closes nothing. connect_to() has done it.
void notice_silence(int socket);

int local_port(int socket);
std::string local_address(int socket);  ///< Numeric, "127.0.0.1" or "fe80::1".

/// @throws TimeoutError, ConnectionLost
void send_all(int socket, std::string_view bytes, Deadline deadline);
/// Waits for bytes and appends what is there. @throws TimeoutError, ConnectionLost
void recv_some(int socket, std::string& bytes, Deadline deadline);

/// The milliseconds until the deadline for poll(), rounded up; 0 when it has passed.
int poll_timeout(Deadline deadline);

}  // namespace syncbn::rendezvous
