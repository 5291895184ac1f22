// SPDX-License-Identifier: Apache-2.0
#include "engines/file_handoff.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <random>
#include <system_error>

#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;

// Time for a connected process to show the secret. A receiver sends it at once; a process that sends nothing
// must not use up the time of those behind it.
constexpr auto kSecretPatience = std::chrono::milliseconds(500);

using Secret = std::array<std::uint64_t, 2>;

[[noreturn]] void throw_system_error(const char* call) {
  throw std::system_error(errno, std::generic_category(), call);
}

Secret random_words() {
  std::random_device device;
  std::uniform_int_distribution<std::uint64_t> word;
  return {word(device), word(device)};
}

struct Address {
  sockaddr_un socket{};
  socklen_t size = 0;
};

Address address_of(const HandoffTicket& ticket) {
  Address address;
  address.socket.sun_family = AF_UNIX;
  const std::string name = fmt::format("syncbn-{:016x}{:016x}", ticket.name[0], ticket.name[1]);
  std::copy(name.begin(), name.end(), address.socket.sun_path + 1);  // a zero first: an abstract name
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

// Keeps the borders of messages, so that the secret comes whole or not at all.
base::Fd make_socket() {
  base::Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) throw_system_error("socket");
  return socket;
}

base::Fd listen_at(const HandoffTicket& ticket) {
  base::Fd socket = make_socket();
  const Address address = address_of(ticket);
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.socket), address.size) != 0)
    throw_system_error("bind");
  if (listen(socket.get(), SOMAXCONN) != 0) throw_system_error("listen");
  return socket;
}

bool is_own_user(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

bool shows_secret(int socket, const Secret& secret, Deadline deadline) {
  if (!base::wait_ready(socket, POLLIN, std::min(deadline, Clock::now() + kSecretPatience))) return false;
  Secret shown{};
  return recv(socket, shown.data(), sizeof shown, 0) == sizeof shown && shown == secret;
}

// One message of one byte, with room for one descriptor.
struct FileMessage {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  FileMessage() {
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
};

bool send_file(int socket, int file) {
  FileMessage message;
  cmsghdr* part = CMSG_FIRSTHDR(&message.header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof file);
  std::memcpy(CMSG_DATA(part), &file, sizeof file);
  return sendmsg(socket, &message.header, MSG_NOSIGNAL) == 1;
}

}  // namespace

FileHandoff::FileHandoff() : ticket_{random_words(), random_words()}, listener_(listen_at(ticket_)) {}

void FileHandoff::hand_to(int receivers, int file, Deadline deadline) {
  while (receivers > 0) {
    if (!base::wait_ready(listener_.get(), POLLIN, deadline))
      throw TimeoutError(fmt::format("{} processes did not fetch the shared memory", receivers));
    const base::Fd peer(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (peer.get() < 0) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) continue;
      throw_system_error("accept");
    }
    if (!is_own_user(peer.get()) || !shows_secret(peer.get(), ticket_.secret, deadline)) continue;
    if (send_file(peer.get(), file)) --receivers;
  }
}

base::Fd receive_file(const HandoffTicket& ticket, Deadline deadline) {
  const base::Fd socket = make_socket();
  const Address address = address_of(ticket);
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.socket), address.size) != 0)
    throw_system_error("connect");
  if (!is_own_user(socket.get())) throw PeerError("the shared memory is offered by another user");
  if (send(socket.get(), ticket.secret.data(), sizeof ticket.secret, MSG_NOSIGNAL) != sizeof ticket.secret)
    throw_system_error("send");
  if (!base::wait_ready(socket.get(), POLLIN, deadline))
    throw TimeoutError("the shared memory was not handed over");
  FileMessage message;
  if (recvmsg(socket.get(), &message.header, MSG_CMSG_CLOEXEC) < 0) throw_system_error("recvmsg");
  const cmsghdr* part = CMSG_FIRSTHDR(&message.header);
  if (part == nullptr || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS ||
      part->cmsg_len != CMSG_LEN(sizeof(int)))
    throw PeerError("the shared memory was refused");
  int file = -1;
  std::memcpy(&file, CMSG_DATA(part), sizeof file);
  return base::Fd(file);
}

}  // namespace syncbn::engines
