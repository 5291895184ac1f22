// SPDX-License-Identifier: Apache-2.0

// A rank table is written by people, and by tools for other readers. So an error names the wrong key with its
// path, and unknown keys are ignored and noted.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <climits>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "environment/parse.h"
#include "environment/rank_table.h"
#include "syncbn/error.h"

namespace syncbn::environment {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 64;  // a table has five levels

std::string shown(const json& value) {
  constexpr std::size_t kMaxShown = 64;
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("an array of {}", value.size());
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    const std::string cut = text.size() > kMaxShown ? text.substr(0, kMaxShown) + "..." : text;
    return json(cut).dump(-1, ' ', false,
                          json::error_handler_t::replace);  // the cut may split a UTF-8 character
  }
  return value.dump() + (value.is_number() ? " (a number)" : "");
}

// The value at a path in the file, or its absence, and what is expected there.
class Entry {
 public:
  Entry(const json* value, std::string path, std::string expected)
      : value_(value), path_(std::move(path)), expected_(std::move(expected)) {}

  const std::string& path() const { return path_; }
  bool exists() const { return value_ != nullptr; }

  [[noreturn]] void refuse(const std::string& expected) const {
    throw GroupError(
        fmt::format("{}: {}, expected {}", path_, exists() ? shown(*value_) : "missing", expected));
  }

  [[noreturn]] void refuse() const { refuse(expected_); }

  const std::string& text() const {
    if (!exists() || !value_->is_string()) refuse();
    return value_->get_ref<const std::string&>();
  }
  int number() const {
    const auto number = parse<unsigned>(text());  // unsigned, so that a sign is refused
    if (!number || *number > INT_MAX) refuse();
    return static_cast<int>(*number);
  }
  const json& object() const {
    if (!exists() || !value_->is_object()) refuse();
    return *value_;
  }
  Entry member(const char* key, std::string expected) const {
    const auto found = object().find(key);
    return {found == value_->end() ? nullptr : &*found,
            path_.empty() ? key : fmt::format("{}.{}", path_, key), std::move(expected)};
  }
  std::vector<Entry> items(const char* expected_item) const {
    if (!exists() || !value_->is_array() || value_->empty()) refuse();
    std::vector<Entry> items;
    for (const json& item : *value_)
      items.emplace_back(&item, fmt::format("{}[{}]", path_, items.size()), expected_item);
    return items;
  }

 private:
  const json* value_;
  std::string path_;
  std::string expected_;
};

const std::set<std::string> kCrossCluster = {"cluster_list", "server_list[].server_ip",
                                             "server_list[].device[].dpu_ip",
                                             "server_list[].device[].numa_id"};

// Ignored keys. The same key of several servers or devices is one entry.
class Ignored {
 public:
  void collect(const json& object, const char* where, std::initializer_list<std::string_view> known) {
    for (const auto& [key, value] : object.items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) ++times_[where + key];
    }
  }
  std::vector<std::string> notes() const {
    std::vector<std::string> notes;
    for (const auto& [path, times] : times_) {
      const bool cross_cluster = kCrossCluster.contains(path);
      notes.push_back(fmt::format("{}: {}, ignored{}", path,
                                  cross_cluster ? "for communication across clusters" : "unknown key",
                                  times == 1 ? "" : fmt::format(" ({} times)", times)));
    }
    return notes;
  }

 private:
  std::map<std::string, int> times_;
};

// Parses the text. The JSON library keeps the last of several equal keys; here equal keys are an error, and
// so is a nesting that no table has.
json parse(const std::string& text) {
  struct Level {
    bool is_list;
    std::size_t items = 0;
    std::string key;
    std::set<std::string> keys;
  };
  std::vector<Level> levels;
  const auto path = [&] {
    std::string result;
    for (const Level& level : levels) {
      if (level.is_list) {
        result += fmt::format("[{}]", level.items);
      } else {
        result += fmt::format("{}{}", result.empty() ? "" : ".", level.key);
      }
    }
    return result;
  };
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (levels.size() == kMaxDepth)
          throw GroupError(fmt::format("nested deeper than {} levels", kMaxDepth));
        levels.push_back({event == json::parse_event_t::array_start, 0, {}, {}});
        return true;
      case json::parse_event_t::key:
        levels.back().key = parsed.get<std::string>();
        if (!levels.back().keys.insert(levels.back().key).second)
          throw GroupError(fmt::format("{}: the key is there twice, expected once", path()));
        return true;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        levels.pop_back();
        break;
      case json::parse_event_t::value:
        break;
    }
    if (!levels.empty()) ++levels.back().items;
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    std::string_view what = error.what();  // "[json.exception...] parse error at line 1, column 2: ..."
    for (const std::string_view before : {"] ", "parse error at "}) {
      if (const auto at = what.find(before); at != what.npos) what.remove_prefix(at + before.size());
    }
    throw GroupError(fmt::format("no valid JSON: {}", what));
  }
}

RankTable::Device read_device(const Entry& entry, Ignored& ignored) {
  ignored.collect(entry.object(), "server_list[].device[].", {"device_id", "device_ip", "rank_id"});
  const Entry ip = entry.member("device_ip", "a string with the device's address");
  if (ip.exists()) ip.text();
  const int id =
      entry.member("device_id", R"(a string with the device's number in its server, such as "0")").number();
  return {std::to_string(id), entry.member("rank_id", R"(a string with a rank, such as "0")").number()};
}

RankTable::Server read_server(const Entry& entry, Ignored& ignored) {
  ignored.collect(entry.object(), "server_list[].", {"server_id", "host_nic_ip", "pod_ip", "device"});
  RankTable::Server server;
  const Entry id = entry.member("server_id", "a string that names the server, usually its address");
  server.server_id = id.text();
  if (server.server_id.empty()) id.refuse();
  const Entry pod = entry.member("pod_ip", "a string with the address of the server's pod");
  if (pod.exists()) server.pod_ip = pod.text();
  const Entry nic = entry.member("host_nic_ip", R"(a string, usually "reserve")");
  if (nic.exists()) nic.text();
  std::map<std::string, std::string> seen;
  for (const Entry& item : entry.member("device", "a list of one device or more").items("an object")) {
    server.devices.push_back(read_device(item, ignored));
    const auto [first, is_new] = seen.emplace(server.devices.back().device_id, item.path());
    if (!is_new)
      item.member("device_id", "").refuse(fmt::format("another number than {}.device_id", first->second));
  }
  return server;
}

void check_ranks(const Entry& list, const RankTable& table) {
  std::map<int, std::string> seen;
  for (const Entry& server : list.items("")) {
    for (const Entry& device : server.member("device", "").items("")) {
      const Entry entry = device.member("rank_id", "");
      const int rank = entry.number();
      if (rank >= table.size())
        entry.refuse(fmt::format("a rank in [0, {}): the table has {} devices", table.size(), table.size()));
      const auto [first, is_new] = seen.emplace(rank, entry.path());
      if (!is_new) entry.refuse(fmt::format("another rank than {}", first->second));
    }
  }
}

// HCCL requires this order; this library does not depend on it.
bool ranks_follow_server_ids(const RankTable& table) {
  std::map<std::string, std::pair<int, int>> ranges;  // by server_id: first and last rank
  for (const auto& server : table.servers) {
    const auto [low, high] =
        std::minmax_element(server.devices.begin(), server.devices.end(),
                            [](const auto& a, const auto& b) { return a.rank < b.rank; });
    ranges[server.server_id] = {low->rank, high->rank};
  }
  return std::adjacent_find(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
           return a.second.second > b.second.first;
         }) == ranges.end();
}

}  // namespace

RankTable parse_rank_table(const std::string& text) {
  const json document = parse(text);
  if (!document.is_object())
    throw GroupError(fmt::format("the file's value is {}, expected an object", shown(document)));
  const Entry root(&document, "", "an object");
  for (const auto& [key, allowed] : {std::pair{"version", "1.0"}, {"status", "completed"}}) {
    const Entry entry = root.member(key, fmt::format("the string \"{}\"", allowed));
    if (entry.text() != allowed) entry.refuse();
  }

  RankTable table;
  Ignored ignored;
  ignored.collect(document, "", {"version", "status", "server_count", "server_list"});
  const Entry list = root.member("server_list", "a list of one server or more");
  std::map<std::string, std::string> seen;
  for (const Entry& item : list.items("an object")) {
    table.servers.push_back(read_server(item, ignored));
    const auto [first, is_new] = seen.emplace(table.servers.back().server_id, item.path());
    if (!is_new)
      item.member("server_id", "").refuse(fmt::format("another name than {}.server_id", first->second));
  }
  const Entry server_count = root.member(
      "server_count", fmt::format("the string \"{}\", the length of server_list", table.servers.size()));
  if (server_count.number() != static_cast<int>(table.servers.size())) server_count.refuse();
  check_ranks(list, table);

  table.notes = ignored.notes();
  if (!ranks_follow_server_ids(table)) {
    table.notes.push_back(
        "server_list[].device[].rank_id: ranks do not follow the order of server_id, which HCCL asks for");
  }
  return table;
}

}  // namespace syncbn::environment
