// SPDX-License-Identifier: Apache-2.0
#include "environment/rank_table.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "syncbn/error.h"

namespace syncbn::environment {
namespace {

constexpr std::size_t kMaxMebibytes = 16;  // 150,000 devices in the documented form

std::string read_file(const std::filesystem::path& file) {
  constexpr std::size_t kMaxBytes = kMaxMebibytes << 20;
  std::ifstream in(file, std::ios::binary);
  if (!in) throw GroupError(fmt::format("can't be opened: {}", std::strerror(errno)));
  std::string text(kMaxBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) throw GroupError(fmt::format("can't be read: {}", std::strerror(errno)));
  text.resize(static_cast<std::size_t>(in.gcount()));
  if (text.size() > kMaxBytes) throw GroupError(fmt::format("longer than {} MiB", kMaxMebibytes));
  return text;
}

const std::string& address(const RankTable::Server& server) {
  return server.pod_ip.empty() ? server.server_id : server.pod_ip;
}

}  // namespace

int RankTable::size() const {
  std::size_t size = 0;
  for (const Server& server : servers) size += server.devices.size();
  return static_cast<int>(size);
}

RankTable read_rank_table(const std::filesystem::path& file) {
  try {
    return parse_rank_table(read_file(file));
  } catch (const GroupError& error) {
    throw GroupError(fmt::format("rank table '{}': {}", file.string(), error.what()));
  }
}

const RankTable::Server& own_server(const RankTable& table, const std::vector<std::string>& addresses) {
  std::vector<std::string> all;
  std::vector<std::string> matching;
  const RankTable::Server* own = nullptr;
  for (const auto& server : table.servers) {
    all.push_back(address(server));
    if (std::find(addresses.begin(), addresses.end(), address(server)) == addresses.end()) continue;
    own = &server;
    matching.push_back(fmt::format("{} (server_id {})", address(server), server.server_id));
  }
  if (matching.size() == 1) return *own;
  throw GroupError(fmt::format(
      "rank table: {} of its servers (pod_ip, or where there is none, server_id: {}) {} this machine, whose "
      "addresses are {}; expected one",
      matching.empty() ? "none" : fmt::format("several, {},", fmt::join(matching, " and ")),
      fmt::join(all, ", "), matching.empty() ? "is" : "are", fmt::join(addresses, ", ")));
}

std::vector<std::string> local_addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0)
    throw GroupError(fmt::format("this machine's addresses can't be read: {}", std::strerror(errno)));
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(first, freeifaddrs);
  std::vector<std::string> addresses;
  std::vector<std::string> loopback;
  for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    const int family = entry->ifa_addr->sa_family;
    const void* binary = nullptr;
    if (family == AF_INET) binary = &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr;
    if (family == AF_INET6) binary = &reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr;
    char text[INET6_ADDRSTRLEN];
    if (binary == nullptr || inet_ntop(family, binary, text, sizeof text) == nullptr) continue;
    auto& list = (entry->ifa_flags & IFF_LOOPBACK) != 0 ? loopback : addresses;
    if (std::find(list.begin(), list.end(), text) == list.end()) list.emplace_back(text);
  }
  addresses.insert(addresses.end(), loopback.begin(), loopback.end());
  return addresses;
}

}  // namespace syncbn::environment
