// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace syncbn::environment {

/// A rank table, version 1.0, as Huawei's tools write it. It maps devices of servers to ranks. The ranks are
/// 0 to size() − 1, each of them once.
struct RankTable {
  struct Device {
    std::string device_id;  ///< Number of the device in its server.
    int rank;
  };
  struct Server {
    std::string server_id;        ///< Usually the server's address.
    std::string pod_ip;           ///< Address of the pod (container) on the server; "" if the table has none.
    std::vector<Device> devices;  ///< In the order of the table.
  };
  std::vector<Server> servers;
  std::vector<std::string> notes;  ///< Notes for the user: ignored keys, and what HCCL would reject.

  int size() const;
};

/// @throws GroupError with line and column if the text is not JSON; with the path of the key
/// ("server_list[1].device[0].rank_id"), its value and what is allowed if a key is missing or wrong
RankTable parse_rank_table(const std::string& text);
/// @throws GroupError that starts with the file's name if the file cannot be read or is longer than 16 MiB,
/// or as parse_rank_table()
RankTable read_rank_table(const std::filesystem::path& file);

/// The server whose pod_ip is one of `addresses`. A server without a pod_ip is found by its server_id.
/// @throws GroupError with both lists if there is no such server, or more than one
const RankTable::Server& own_server(const RankTable& table, const std::vector<std::string>& addresses);

/// The addresses of this machine's active interfaces as text, loopback addresses last. @throws GroupError
std::vector<std::string> local_addresses();

}  // namespace syncbn::environment
