// SPDX-License-Identifier: Apache-2.0
#include "launch/check_rank_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "environment/rank_table.h"
#include "launch/exit_codes.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

using Row = std::vector<std::string>;

std::string table_text(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows[0].size());
  for (const Row& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("  {:<{}}", row[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
  }
  return text;
}

std::string own_server_text(const environment::RankTable& table) {
  try {
    return fmt::format("this machine is server {}\n",
                       environment::own_server(table, environment::local_addresses()).server_id);
  } catch (const GroupError& error) {
    return fmt::format("note: {}\n", error.what());  // the table may be for other machines
  }
}

std::string describe(const std::string& file, const environment::RankTable& table) {
  std::vector<Row> rows = {{"server_id", "pod_ip", "device_id", "rank_id"}};
  for (const auto& server : table.servers) {
    std::vector<std::string> devices;
    std::vector<int> ranks;
    for (const auto& device : server.devices) {
      devices.push_back(device.device_id);
      ranks.push_back(device.rank);
    }
    rows.push_back({server.server_id, server.pod_ip.empty() ? "-" : server.pod_ip,
                    fmt::format("{}", fmt::join(devices, " ")), fmt::format("{}", fmt::join(ranks, " "))});
  }
  std::string text = fmt::format("rank table '{}' is valid: {} servers, {} devices\n", file,
                                 table.servers.size(), table.size());
  text += table_text(rows);
  for (const std::string& note : table.notes) text += fmt::format("note: {}\n", note);
  return text + own_server_text(table);
}

}  // namespace

std::string describe_rank_table(const std::string& file) {
  try {
    return describe(file, environment::read_rank_table(file));
  } catch (const GroupError& error) {
    throw UsageError(error.what());
  }
}

}  // namespace syncbn::launch
