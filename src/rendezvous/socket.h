#pragma once

#include <signal.h>

#include <string>
#include <string_view>
#include <utility>

#include "syncbn/communicator.h"
#include "syncbn/error.h"

/// TCP sockets for the rendezvous. Every wait has a deadline, no call raises SIGPIPE, no descriptor survives
/// an exec.
namespace syncbn::group {

/// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

/// Blocks all signals in this thread for its lifetime. Threads made meanwhile stay deaf: the program's
/// signals go to the program's own threads, and a SIGPIPE that such a thread causes stays pending instead of
/// ending the process.
class BlockSignals {
 public:
  BlockSignals();
  ~BlockSignals();
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

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
Fd listen_on(const std::string& host, int port);
/// Returns when `host` has an address: a name may be entered late. @throws TimeoutError naming it
void wait_for_name(const std::string& host, Deadline deadline);
/// A non-blocking connection. Tries again while it is refused, for the server may start last.
/// @throws TimeoutError naming the address and the last reason
Fd connect_to(const std::string& host, int port, Deadline deadline);
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

}  // namespace syncbn::group
