// SPDX-License-Identifier: Apache-2.0
#include "launch/status_message.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <type_traits>

#include "base/throw_errno.h"

namespace syncbn::launch {
namespace {

static_assert(std::is_trivially_copyable_v<Status>);
constexpr std::size_t kMaxText = 16384;  // a message must fit into the socket's buffer, 208 KiB by default

void send_message(int socket, const Status& status, std::string_view text, int flags) {
  std::string message(reinterpret_cast<const char*>(&status), sizeof status);
  message += text;
  while (send(socket, message.data(), message.size(), flags | MSG_NOSIGNAL) < 0 && errno == EINTR) continue;
}

}  // namespace

std::pair<base::Fd, base::Fd> status_socket() {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
    base::throw_errno("socketpair");
  return {base::Fd(ends[0]), base::Fd(ends[1])};
}

void send_status(int socket, const Status& status) { send_message(socket, status, "", 0); }

void send_report(int socket, std::string_view text) {
  for (; !text.empty(); text.remove_prefix(std::min(kMaxText, text.size())))
    send_message(socket, Report{}, text.substr(0, kMaxText), 0);
}

void send_if_room(int socket, const Status& status, std::string_view text) {
  send_message(socket, status, text.substr(0, kMaxText), MSG_DONTWAIT);
}

std::optional<StatusMessage> receive_status(int socket) {
  std::array<char, sizeof(Status) + kMaxText> bytes{};
  ssize_t size = 0;
  while ((size = recv(socket, bytes.data(), bytes.size(), 0)) < 0 && errno == EINTR) continue;
  if (size < static_cast<ssize_t>(sizeof(Status))) return std::nullopt;
  StatusMessage message;
  std::memcpy(&message.status, bytes.data(), sizeof(Status));
  message.text.assign(bytes.data() + sizeof(Status), static_cast<std::size_t>(size) - sizeof(Status));
  return message;
}

}  // namespace syncbn::launch
