// SPDX-License-Identifier: Apache-2.0

// The reader of rank tables: whatever the text, a table or a GroupError, and a table is one that can be used.
//
// control: with from_chars's end not looked at in Entry::number, the table written again differs from the one
// read.
#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "environment/rank_table.h"
#include "fuzz/input.h"
#include "syncbn/error.h"

namespace {

using syncbn::environment::RankTable;

nlohmann::json written(const RankTable& table) {
  nlohmann::json servers = nlohmann::json::array();
  for (const RankTable::Server& server : table.servers) {
    nlohmann::json devices = nlohmann::json::array();
    for (const RankTable::Device& device : server.devices)
      devices.push_back({{"device_id", device.device_id}, {"rank_id", std::to_string(device.rank)}});
    servers.push_back({{"server_id", server.server_id}, {"pod_ip", server.pod_ip}, {"device", devices}});
  }
  return {{"version", "1.0"},
          {"status", "completed"},
          {"server_count", std::to_string(table.servers.size())},
          {"server_list", servers}};
}

void check(const RankTable& table) {
  std::set<int> ranks;
  for (const RankTable::Server& server : table.servers)
    for (const RankTable::Device& device : server.devices) ranks.insert(device.rank);
  fuzz::expect(table.size() > 0 && static_cast<int>(ranks.size()) == table.size() && *ranks.begin() == 0 &&
                   *ranks.rbegin() == table.size() - 1,
               "the ranks are not 0 to n - 1");
  const nlohmann::json first = written(table);
  fuzz::expect(written(syncbn::environment::parse_rank_table(first.dump())) == first,
               "written and read again");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check(syncbn::environment::parse_rank_table(std::string(reinterpret_cast<const char*>(data), size)));
  } catch (const syncbn::GroupError&) {  // the only exception that it may throw
  }
  return 0;
}
