// SPDX-License-Identifier: Apache-2.0

// Rank tables: what is read, each key wrong in turn, and which server is this machine
#include "environment/rank_table.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "../ranks.h"

namespace syncbn::environment {
namespace {

using testing::expect_error;
using testing::outcome;

// As MindSpore's documentation prints it, for two servers.
const std::string kTable = R"({
  "version": "1.0",
  "server_count": "2",
  "server_list": [
    {
      "server_id": "10.0.0.1",
      "device": [
        {"device_id": "0", "device_ip": "192.168.1.6", "rank_id": "0"},
        {"device_id": "1", "device_ip": "192.168.2.6", "rank_id": "1"}],
      "host_nic_ip": "reserve"
    },
    {
      "server_id": "10.0.0.2",
      "device": [
        {"device_id": "4", "device_ip": "192.168.1.8", "rank_id": "3"},
        {"device_id": "7", "device_ip": "192.168.2.8", "rank_id": "2"}],
      "host_nic_ip": "reserve",
      "pod_ip": "10.1.0.2"
    }
  ],
  "status": "completed"
})";

class RankTableFile : public ::testing::Test {
 protected:
  RankTableFile() { std::filesystem::create_directory(folder_); }
  ~RankTableFile() override { std::filesystem::remove_all(folder_); }

  RankTable read(const std::string& text) const {
    std::ofstream(file_, std::ios::binary) << text;
    return read_rank_table(file_);
  }
  // The table with its first (or `nth`) `old` replaced.
  static std::string changed(const std::string& old, const std::string& now, int nth = 1) {
    std::string text = kTable;
    std::size_t at = text.find(old);
    for (; nth > 1; --nth) at = text.find(old, at + 1);
    EXPECT_NE(at, std::string::npos) << old;
    return text.replace(at, old.size(), now);
  }
  void expect_refusal(const std::string& text, const std::vector<std::string>& facts) const {
    SCOPED_TRACE(text.substr(0, 2000));
    const std::string outcome = testing::outcome([&] { read(text); });
    expect_error<GroupError>(outcome, {fmt::format("'{}'", file_.string())});
    expect_error<GroupError>(outcome, facts);
  }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / fmt::format("syncbn_rank_table_{}", getpid());
  const std::filesystem::path file_ = folder_ / "table.json";
};

TEST_F(RankTableFile, IsRead) {
  const RankTable table = read(kTable);
  EXPECT_EQ(table.size(), 4);
  ASSERT_EQ(table.servers.size(), 2u);
  EXPECT_EQ(table.servers[0].server_id, "10.0.0.1");
  EXPECT_EQ(table.servers[0].pod_ip, "");
  EXPECT_EQ(table.servers[1].pod_ip, "10.1.0.2");
  std::string devices;
  for (const auto& server : table.servers) {
    for (const auto& device : server.devices) devices += fmt::format("{}:{} ", device.device_id, device.rank);
  }
  EXPECT_EQ(devices, "0:0 1:1 4:3 7:2 ");
  EXPECT_EQ(table.notes, std::vector<std::string>{});
}

// Each key of `kTable` with another value, and the key and the value that the error tells. The control is
// IsRead: the same table, unchanged.
TEST_F(RankTableFile, EachKeyWrongInTurn) {
  const struct {
    std::string old, now;
    std::vector<std::string> facts;
    int nth = 1;
  } cases[] = {
      {R"("version": "1.0",)", "", {"version ... missing", R"("1.0")"}},
      {R"("1.0")", "1.0", {"version ... 1.0 ... number", R"("1.0")"}},
      {R"("1.0")", R"("1.2")", {R"(version ... "1.2")", R"("1.0")"}},
      {R"("completed")", R"("initializing")", {R"(status ... "initializing")", R"("completed")"}},
      {R"("completed")", "null", {"status ... null", R"("completed")"}},
      {R"("server_count": "2",)", "", {"server_count ... missing", R"("2" ... server_list)"}},
      {R"("2",)", "2,", {"server_count ... 2 ... number", R"("2" ... server_list)"}},
      {R"("2",)", R"("3",)", {R"(server_count ... "3" ... "2" ... server_list)"}},
      {R"("2",)", R"("two",)", {R"(server_count ... "two" ... "2" ... server_list)"}},
      {"server_list", "servers", {"server_list ... missing"}},
      {R"("server_id": "10.0.0.2",)", "", {"server_list[1].server_id ... missing"}},
      {R"("10.0.0.2")", "true", {"server_list[1].server_id ... true"}},
      {R"("10.0.0.2")", R"("")", {R"(server_list[1].server_id ... "")"}},
      {R"("10.0.0.2")",
       R"("10.0.0.1")",
       {R"(server_list[1].server_id ... "10.0.0.1")", "server_list[0].server_id"}},
      {R"("10.1.0.2")", "7", {"server_list[1].pod_ip ... 7 ... number"}},
      {R"("reserve")", "{}", {"server_list[1].host_nic_ip ... object", R"("reserve")"}, 2},
      {R"("device": [)", R"("device": [], "devices": [)", {"server_list[1].device ... array of 0"}, 2},
      {R"("device": [)", R"("device": [[], )", {"server_list[1].device[0] ... array of 0 ... object"}, 2},
      {R"("device_id": "7", )", "", {"server_list[1].device[1].device_id ... missing"}},
      {R"("7")", R"("x")", {R"(server_list[1].device[1].device_id ... "x")"}},
      {R"("7")", R"("-1")", {R"(server_list[1].device[1].device_id ... "-1")"}},
      {R"("7")", R"("")", {R"(server_list[1].device[1].device_id ... "")"}},
      {R"("7")", R"("1.0")", {R"(server_list[1].device[1].device_id ... "1.0")"}},
      {R"("7")", R"(" 1")", {R"(server_list[1].device[1].device_id ... " 1")"}},
      {R"("7")", R"("99999999999")", {R"(server_list[1].device[1].device_id ... "99999999999")"}},
      {R"("7")", "7", {"server_list[1].device[1].device_id ... 7 ... number"}},
      {R"("7")",
       R"("04")",
       {R"(server_list[1].device[1].device_id ... "04")", "server_list[1].device[0].device_id"}},
      {R"("192.168.2.8")", "1", {"server_list[1].device[1].device_ip ... 1 ... number"}},
      {R"(, "rank_id": "0")", "", {"server_list[0].device[0].rank_id ... missing"}},
      {R"("rank_id": "0")", R"("rank_id": 0)", {"server_list[0].device[0].rank_id ... 0 ... number"}},
      {R"("rank_id": "0")", R"("rank_id": "-0")", {R"(server_list[0].device[0].rank_id ... "-0")"}},
      {R"("rank_id": "3")",
       R"("rank_id": "4")",
       {R"(server_list[1].device[0].rank_id ... "4")", "[0, 4)", "4 devices"}},
      {R"("rank_id": "3")",
       R"("rank_id": "1")",
       {R"(server_list[1].device[0].rank_id ... "1")", "server_list[0].device[1].rank_id"}},
  };
  for (const auto& c : cases) expect_refusal(changed(c.old, c.now, c.nth), c.facts);
}

TEST_F(RankTableFile, ServerListsWithoutServers) {
  const auto refused = [&](const char* count, const char* servers, const std::string& fact) {
    constexpr auto kForm =
        R"({{"version": "1.0", "status": "completed", "server_count": "{}", "server_list": {}}})";
    expect_refusal(fmt::format(fmt::runtime(kForm), count, servers), {fact});
  };
  refused("0", "[]", "server_list ... array of 0");
  refused("0", "{}", "server_list ... object");
  refused("1", R"(["a"])", R"(server_list[0] ... "a" ... object)");
}

TEST_F(RankTableFile, KeysThatAreThereTwice) {
  const auto refused = [&](const char* old, const char* now, const char* key) {
    expect_refusal(changed(old, now), {key, "twice"});
  };
  refused(R"("rank_id": "3")", R"("rank_id": "3", "rank_id": "2")", "server_list[1].device[0].rank_id");
  refused(R"("status")", R"("version": "1.0", "status")", "version");
  refused(R"("status")", R"("x": [{"a": 1}, {"a": {"a": 2}, "b": 1, "b": 1}], "status")", "x[1].b");
}

TEST_F(RankTableFile, SyntaxErrorsNameLineAndColumn) {
  std::string no_comma = kTable;
  no_comma.erase(no_comma.find(R"("2",)") + 3, 1);
  const std::pair<std::string, std::vector<std::string>> cases[] = {
      {no_comma, {"JSON", "line 4, column 15"}},
      {"", {"JSON", "line 1, column 1"}},
      {kTable + "\n}", {"JSON", "line 23, column 1"}},
      {"\"\xff\"", {"JSON", "line 1, column 2"}},
      {"[1e999]", {"JSON", "'1e999'"}},
      {"[]", {"array of 0 ... object"}},
      {"3", {"3 ... number ... object"}},
  };
  for (const auto& [text, facts] : cases) expect_refusal(text, facts);
}

TEST_F(RankTableFile, HostileInputEndsSoon) {
  expect_refusal(std::string(1'000'000, '['), {"64 levels"});
  expect_refusal(std::string(16 << 20, ' ') + "x", {"16 MiB"});
  EXPECT_EQ(outcome([&] { read(changed("reserve", std::string(1000, 'n'))); }), "ok");
  expect_refusal(changed("completed", std::string(1000, 'n')),
                 {fmt::format(R"(status ... "{}..." ... "completed")", std::string(64, 'n'))});
  // Cut inside a letter of two bytes.
  expect_refusal(changed("completed", std::string(63, 'n') + "\u00e9\u00e9"),
                 {fmt::format("status ... \"{}\ufffd...\" ... \"completed\"", std::string(63, 'n'))});
}

TEST_F(RankTableFile, FilesThatCanNotBeRead) {
  const auto absent = folder_ / "absent.json";
  expect_error<GroupError>([&] { read_rank_table(absent); }, {fmt::format("'{}'", absent.string())});
  expect_error<GroupError>([&] { read_rank_table(folder_); }, {fmt::format("'{}'", folder_.string())});
}

// The keys of MindSpore's table for several clusters, and one that nobody knows.
TEST_F(RankTableFile, IgnoredKeysAreNoted) {
  std::string text = kTable;
  const auto replace_all = [&](const std::string& old, const std::string& now) {
    for (std::size_t at = 0; (at = text.find(old, at)) != std::string::npos; at += now.size())
      text.replace(at, old.size(), now);
  };
  replace_all(R"("rank_id")", R"("dpu_ip": "8.2.17.60", "numa_id": "", "rank_id")");
  replace_all(R"("device":)", R"("server_ip": "10.0.0.9", "device":)");
  replace_all(R"("status")", R"("cluster_list": [{"cluster_id": "cluster_0", "server_list": []}], "status")");
  replace_all(R"("pod_ip")", R"("pop_ip": 1, "pod_ip")");
  EXPECT_EQ(read(text).notes,
            (std::vector<std::string>{
                "cluster_list: for communication across clusters, ignored",
                "server_list[].device[].dpu_ip: for communication across clusters, ignored (4 times)",
                "server_list[].device[].numa_id: for communication across clusters, ignored (4 times)",
                "server_list[].pop_ip: unknown key, ignored",
                "server_list[].server_ip: for communication across clusters, ignored (2 times)"}));
}

TEST_F(RankTableFile, RanksAgainstTheOrderOfServersAreNoted) {
  std::string text = kTable;
  text.replace(text.find("10.0.0.1"), 8, "10.0.0.3");
  EXPECT_EQ(read(text).notes, (std::vector<std::string>{"server_list[].device[].rank_id: ranks do not follow "
                                                        "the order of server_id, which HCCL asks for"}));
}

TEST_F(RankTableFile, OwnServer) {
  const RankTable table = read(kTable);
  EXPECT_EQ(&own_server(table, {"172.17.0.1", "10.0.0.1", "127.0.0.1"}), &table.servers[0]);
  EXPECT_EQ(&own_server(table, {"10.1.0.2"}), &table.servers[1]);
  // A server's pod_ip takes precedence over its server_id.
  expect_error<GroupError>(
      [&] {
        own_server(table, {"10.0.0.2", "127.0.0.1"});
      },
      {"10.0.0.1, 10.1.0.2 ... 10.0.0.2, 127.0.0.1", "pod_ip", "server_id"});
  expect_error<GroupError>(
      [&] {
        own_server(table, {"10.0.0.1", "10.1.0.2"});
      },
      {"10.0.0.1 ... 10.0.0.1 ... 10.1.0.2 ... 10.0.0.2", "pod_ip", "server_id", "10.0.0.1, 10.1.0.2"});
}

TEST(LocalAddresses, LoopbackLast) {
  const auto addresses = local_addresses();
  const auto loopback = std::find(addresses.begin(), addresses.end(), "127.0.0.1");
  ASSERT_NE(loopback, addresses.end()) << fmt::format("{}", fmt::join(addresses, ", "));
  EXPECT_TRUE(std::all_of(loopback, addresses.end(), [](const std::string& address) {
    return address.rfind("127.", 0) == 0 || address == "::1";
  })) << fmt::format("{}", fmt::join(addresses, ", "));
  auto sorted = addresses;
  std::ranges::sort(sorted);
  EXPECT_EQ(std::ranges::adjacent_find(sorted), sorted.end());
}

}  // namespace
}  // namespace syncbn::environment
