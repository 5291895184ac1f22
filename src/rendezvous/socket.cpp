// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/socket.h"

#include <fmt/core.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "base/interrupt.h"
#include "base/long_wait.h"
#include "syncbn/error.h"

namespace syncbn::rendezvous {
namespace {

using Clock = std::chrono::steady_clock;

// Time between two attempts of a refused connection. Users do not notice the delay, and a hundred waiting
// ranks do not load the host.
constexpr auto kRetryPause = std::chrono::milliseconds(20);
// Time between two queries for a name. All ranks query the same name server.
constexpr auto kNamePause = std::chrono::milliseconds(200);
// Time for a name to get an address. A cluster may register the names of a job a few seconds after its start;
// a misspelt name never gets an address.
constexpr auto kNameTime = std::chrono::seconds(10);

std::string reason(int error) { return std::generic_category().message(error); }

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// Returns null and sets `why` if the name has no address yet.
AddressList resolve(const std::string& host, int port, std::string& why) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    why = gai_strerror(error);
    return {nullptr, &freeaddrinfo};
  }
  return {found, &freeaddrinfo};
}

// Repeats the query for kNameTime, or until an earlier deadline.
AddressList resolve_by(const std::string& host, int port, Deadline deadline) {
  const Deadline begin = Clock::now();
  deadline = std::min(deadline, begin + kNameTime);
  std::string why;
  for (;;) {
    AddressList found = resolve(host, port, why);
    if (found != nullptr) return found;
    if (Clock::now() >= deadline) {
      const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
      throw GroupError(fmt::format("rendezvous: the name '{}' has no address, after {:.3g} s of queries: {}",
                                   host, std::chrono::duration<double>(waited).count(), why));
    }
    base::check_interrupt();
    std::this_thread::sleep_until(std::min(deadline, Clock::now() + kNamePause));
  }
}

base::Fd make_socket(const addrinfo& address) {
  return base::Fd(socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol));
}

// True if the socket is connected to itself. This happens if the kernel chooses the destination port as the
// source port of a connection to this machine.
bool connected_to_itself(int socket) {
  sockaddr_storage own{}, peer{};
  socklen_t own_size = sizeof own, peer_size = sizeof peer;
  return getsockname(socket, reinterpret_cast<sockaddr*>(&own), &own_size) == 0 &&
         getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0 && own_size == peer_size &&
         std::memcmp(&own, &peer, own_size) == 0;
}

// Returns 0, or the errno of the failed attempt.
int try_connect(int socket, const addrinfo& address, Deadline deadline) {
  if (connect(socket, address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return errno;
    if (!base::wait_ready(socket, POLLOUT, deadline)) return ETIMEDOUT;
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return error;
  }
  return connected_to_itself(socket) ? ECONNREFUSED : 0;
}

}  // namespace

base::Fd listen_on(const std::string& host, int port) {
  std::string why = "no address";
  bool elsewhere = true;
  bool in_use = false;
  // On a machine with IPv6, "::" also listens to IPv4.
  for (const std::string& name :
       host.empty() ? std::vector<std::string>{"::", "0.0.0.0"} : std::vector{host}) {
    const AddressList addresses = resolve(name, port, why);
    elsewhere = elsewhere && addresses != nullptr;
    for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
      base::Fd socket = make_socket(*address);
      const int on = 1;
      setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      if (bind(socket.get(), address->ai_addr, address->ai_addrlen) == 0 &&
          listen(socket.get(), SOMAXCONN) == 0)
        return socket;
      elsewhere = elsewhere && errno == EADDRNOTAVAIL;
      in_use = errno == EADDRINUSE;
      why = reason(errno);
    }
  }
  const std::string text = fmt::format("rendezvous: can't listen on {}:{}: {}", host, port, why);
  if (elsewhere) throw AddressElsewhere(text);
  if (in_use) throw AddressUnavailable(text);
  throw GroupError(text);
}

void wait_for_name(const std::string& host, Deadline deadline) { resolve_by(host, 0, deadline); }

base::Fd connect_to(const std::string& host, int port, Deadline deadline) {
  std::string why;
  const base::WaitPhrase phrase([&why] { return fmt::format("for an answer ({})", why); });
  for (;;) {
    const AddressList addresses = resolve_by(host, port, deadline);
    for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
      base::Fd socket = make_socket(*address);
      const int error = socket.get() < 0 ? errno : try_connect(socket.get(), *address, deadline);
      if (error == 0) {
        const int on = 1;
        setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        notice_silence(socket.get());
        return socket;
      }
      why = reason(error);
    }
    base::check_interrupt();
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero())
      throw TimeoutError(fmt::format("rendezvous: no connection to {}:{}: {}", host, port, why));
    std::this_thread::sleep_for(std::min<Clock::duration>(left, kRetryPause));
  }
}

void notice_silence(int socket) {
  // Probes the peer after 5 s of silence, then every second. The last option also limits the time for which
  // sent data may stay unacknowledged.
  const auto set = [socket](int level, int option, int value) {
    setsockopt(socket, level, option, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(IPPROTO_TCP, TCP_KEEPCNT, 5);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 10'000);
}

int local_port(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

std::string local_address(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char text[NI_MAXHOST] = "";
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0)
    getnameinfo(reinterpret_cast<sockaddr*>(&address), size, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  return text;
}

void send_all(int socket, std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      if (!base::wait_ready(socket, POLLOUT, deadline)) throw TimeoutError("a message could not be sent");
    } else if (errno != EINTR) {
      throw ConnectionLost(fmt::format("connection broken: {}", reason(errno)));
    }
  }
}

void recv_some(int socket, std::string& bytes, Deadline deadline) {
  char chunk[4096];
  for (;;) {
    const ssize_t received = recv(socket, chunk, sizeof chunk, 0);
    if (received > 0) {
      bytes.append(chunk, static_cast<std::size_t>(received));
      return;
    }
    if (received == 0) throw ConnectionLost("connection closed by peer");
    if (errno == EAGAIN) {
      if (!base::wait_ready(socket, POLLIN, deadline)) throw TimeoutError("no answer");
    } else if (errno != EINTR) {
      throw ConnectionLost(fmt::format("connection broken: {}", reason(errno)));
    }
  }
}

}  // namespace syncbn::rendezvous
