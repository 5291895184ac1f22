// SPDX-License-Identifier: Apache-2.0
#include "launch/addresses.h"

#include <fmt/core.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/file_descriptor.h"
#include "launch/exit_codes.h"

namespace syncbn::launch {
namespace {

using Found = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Found look_up(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), "9", &hints, &found); error != 0)
    throw UsageError(fmt::format("--master_addr is '{}': {}", host, gai_strerror(error)));
  return {found, freeaddrinfo};
}

std::string numeric(const sockaddr* address, socklen_t length) {
  std::array<char, NI_MAXHOST> text{};
  getnameinfo(address, length, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST);
  return text.data();
}

}  // namespace

std::string numeric_address(const std::string& host) {
  const Found found = look_up(host);
  return numeric(found->ai_addr, found->ai_addrlen);
}

std::string own_address_towards(const std::string& host) {
  const Found found = look_up(host);
  // Connecting a datagram socket sends nothing. It selects the route and the source address.
  const base::Fd probe(socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  if (connect(probe.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      getsockname(probe.get(), reinterpret_cast<sockaddr*>(&own), &length) != 0)
    throw UsageError(fmt::format("--master_addr is '{}': {}", host, std::strerror(errno)));
  return numeric(reinterpret_cast<const sockaddr*>(&own), length);
}

}  // namespace syncbn::launch
