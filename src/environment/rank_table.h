#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace syncbn::environment {

/// A rank table, version 1.0, as Huawei's tools write it: which device of which server is which rank.
/// Checked: the ranks are 0 to size() − 1, each once.
struct RankTable {
  struct Device {
    std::string device_id;  ///< Number of the card in its server, unique there.
    int rank;
  };
  struct Server {
    std::string server_id;        ///< Usually its address.
    std::string pod_ip;           ///< Address of the pod (container) on it; "" where the table has none.
    std::vector<Device> devices;  ///< In the table's order.
  };
  std::vector<Server> servers;
  std::vector<std::string> notes;  ///< For people: each key that was ignored, and what HCCL would not take.

  int size() const;
};

/// @throws GroupError: no JSON (with line and column), or a key is missing or wrong, with its path in the
/// text
/// ("server_list[1].device[0].rank_id"), its value and what is allowed
RankTable parse_rank_table(const std::string& text);
/// @throws GroupError: can't be read, longer than 16 MiB, or as above; the message begins with the file's
/// name
RankTable read_rank_table(const std::filesystem::path& file);

/// The server whose pod_ip, or where it has none, whose server_id, is one of `addresses`.
/// @throws GroupError none or several are, naming both lists
const RankTable::Server& own_server(const RankTable& table, const std::vector<std::string>& addresses);

/// The addresses of this machine's interfaces that are up, loopback ones last, in text form. @throws
/// GroupError
std::vector<std::string> local_addresses();

}  // namespace syncbn::environment
