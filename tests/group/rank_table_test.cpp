// Rank tables: what is read, each key wrong in turn, and which server is this machine
#include "environment/rank_table.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "ranks.h"

namespace syncbn::environment {
namespace {

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
  // The error for the table with its first (or `nth`) `old` replaced, without the file's name; "ok" for none.
  std::string changed(const std::string& old, const std::string& now, int nth = 1) const {
    std::string text = kTable;
    std::size_t at = text.find(old);
    for (; nth > 1; --nth) at = text.find(old, at + 1);
    EXPECT_NE(at, std::string::npos) << old;
    return error(text.replace(at, old.size(), now));
  }
  std::string error(const std::string& text) const {
    const std::string all = outcome([&] { read(text); });
    const std::string prefix = fmt::format("GroupError: rank table '{}': ", file_.string());
    return all.rfind(prefix, 0) == 0 ? all.substr(prefix.size()) : all;
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

// Each key as it is in `kTable`, or with another value there. The control is IsRead: the same table,
// unchanged.
TEST_F(RankTableFile, EachKeyWrongInTurn) {
  const auto version = R"(expected the string "1.0")";
  EXPECT_EQ(changed(R"("version": "1.0",)", ""), fmt::format("version: missing, {}", version));
  EXPECT_EQ(changed(R"("1.0")", "1.0"), fmt::format("version: 1.0 (a number), {}", version));
  EXPECT_EQ(changed(R"("1.0")", R"("1.2")"), fmt::format(R"(version: "1.2", {})", version));
  EXPECT_EQ(changed(R"("completed")", R"("initializing")"),
            R"(status: "initializing", expected the string "completed")");
  EXPECT_EQ(changed(R"("completed")", "null"), R"(status: null, expected the string "completed")");
  const auto count = R"(expected the string "2", the length of server_list)";
  EXPECT_EQ(changed(R"("server_count": "2",)", ""), fmt::format("server_count: missing, {}", count));
  EXPECT_EQ(changed(R"("2",)", "2,"), fmt::format("server_count: 2 (a number), {}", count));
  EXPECT_EQ(changed(R"("2",)", R"("3",)"), fmt::format(R"(server_count: "3", {})", count));
  EXPECT_EQ(changed(R"("2",)", R"("two",)"), fmt::format(R"(server_count: "two", {})", count));

  const auto servers = "expected a list of one server or more";
  EXPECT_EQ(changed("server_list", "servers"), fmt::format("server_list: missing, {}", servers));
  EXPECT_EQ(error(R"({"version": "1.0", "status": "completed", "server_count": "0", "server_list": []})"),
            fmt::format("server_list: an array of 0, {}", servers));
  EXPECT_EQ(error(R"({"version": "1.0", "status": "completed", "server_count": "0", "server_list": {}})"),
            fmt::format("server_list: an object, {}", servers));
  EXPECT_EQ(error(R"({"version": "1.0", "status": "completed", "server_count": "1", "server_list": ["a"]})"),
            R"(server_list[0]: "a", expected an object)");

  const auto id = "expected a string that names the server, usually its address";
  EXPECT_EQ(changed(R"("server_id": "10.0.0.2",)", ""),
            fmt::format("server_list[1].server_id: missing, {}", id));
  EXPECT_EQ(changed(R"("10.0.0.2")", "true"), fmt::format("server_list[1].server_id: true, {}", id));
  EXPECT_EQ(changed(R"("10.0.0.2")", R"("")"), fmt::format(R"(server_list[1].server_id: "", {})", id));
  EXPECT_EQ(changed(R"("10.0.0.2")", R"("10.0.0.1")"),
            R"(server_list[1].server_id: "10.0.0.1", expected another name than server_list[0].server_id)");
  EXPECT_EQ(changed(R"("10.1.0.2")", "7"),
            "server_list[1].pod_ip: 7 (a number), expected a string with the address of the server's pod");
  EXPECT_EQ(changed(R"("reserve")", "{}", 2),
            R"(server_list[1].host_nic_ip: an object, expected a string, usually "reserve")");
  EXPECT_EQ(changed(R"("device": [)", R"("device": [], "devices": [)", 2),
            "server_list[1].device: an array of 0, expected a list of one device or more");
  EXPECT_EQ(changed(R"("device": [)", R"("device": [[], )", 2),
            "server_list[1].device[0]: an array of 0, expected an object");

  const auto device = R"(expected a string with the device's number in its server, such as "0")";
  EXPECT_EQ(changed(R"("device_id": "7", )", ""),
            fmt::format("server_list[1].device[1].device_id: missing, {}", device));
  for (const char* wrong : {R"("x")", R"("-1")", R"("")", R"("1.0")", R"(" 1")", R"("99999999999")"}) {
    EXPECT_EQ(changed(R"("7")", wrong),
              fmt::format("server_list[1].device[1].device_id: {}, {}", wrong, device));
  }
  EXPECT_EQ(changed(R"("7")", "7"),
            fmt::format("server_list[1].device[1].device_id: 7 (a number), {}", device));
  EXPECT_EQ(changed(R"("7")", R"("04")"),
            R"(server_list[1].device[1].device_id: "04", expected another number than )"
            "server_list[1].device[0].device_id");
  EXPECT_EQ(changed(R"("192.168.2.8")", "1"),
            "server_list[1].device[1].device_ip: 1 (a number), expected a string with the device's address");

  const auto rank = R"(expected a string with a rank, such as "0")";
  EXPECT_EQ(changed(R"(, "rank_id": "0")", ""),
            fmt::format("server_list[0].device[0].rank_id: missing, {}", rank));
  EXPECT_EQ(changed(R"("rank_id": "0")", R"("rank_id": 0)"),
            fmt::format("server_list[0].device[0].rank_id: 0 (a number), {}", rank));
  EXPECT_EQ(changed(R"("rank_id": "0")", R"("rank_id": "-0")"),
            fmt::format(R"(server_list[0].device[0].rank_id: "-0", {})", rank));
  EXPECT_EQ(changed(R"("rank_id": "3")", R"("rank_id": "4")"),
            R"(server_list[1].device[0].rank_id: "4", expected a rank in [0, 4): the table has 4 devices)");
  EXPECT_EQ(changed(R"("rank_id": "3")", R"("rank_id": "1")"),
            R"(server_list[1].device[0].rank_id: "1", expected another rank than )"
            "server_list[0].device[1].rank_id");
}

TEST_F(RankTableFile, SyntaxErrorsNameLineAndColumn) {
  EXPECT_EQ(changed(R"("server_count": "2",)", R"("server_count": "2")")
                .rfind("no valid JSON: line 4, column 15: ", 0),
            0u)
      << changed(R"("server_count": "2",)", R"("server_count": "2")");
  EXPECT_EQ(error("").rfind("no valid JSON: line 1, column 1: ", 0), 0u) << error("");
  EXPECT_EQ(error(kTable + "\n}").rfind("no valid JSON: line 23, column 1: ", 0), 0u)
      << error(kTable + "\n}");
  EXPECT_EQ(error("\"\xff\"").rfind("no valid JSON: line 1, column 2: ", 0), 0u) << error("\"\xff\"");
  EXPECT_EQ(error("[1e999]"), "no valid JSON: number overflow parsing '1e999'");
  EXPECT_EQ(error("[]"), "the file's value is an array of 0, expected an object");
  EXPECT_EQ(error("3"), "the file's value is 3 (a number), expected an object");
}

TEST_F(RankTableFile, KeysThatAreThereTwice) {
  EXPECT_EQ(changed(R"("rank_id": "3")", R"("rank_id": "3", "rank_id": "2")"),
            "server_list[1].device[0].rank_id: the key is there twice, expected once");
  EXPECT_EQ(changed(R"("status")", R"("version": "1.0", "status")"),
            "version: the key is there twice, expected once");
  EXPECT_EQ(changed(R"("status")", R"("x": [{"a": 1}, {"a": {"a": 2}, "b": 1, "b": 1}], "status")"),
            "x[1].b: the key is there twice, expected once");
}

TEST_F(RankTableFile, HostileInputEndsSoon) {
  EXPECT_EQ(error(std::string(1'000'000, '[')), "nested deeper than 64 levels");
  EXPECT_EQ(error(std::string(16 << 20, ' ') + "x"), "longer than 16 MiB");
  EXPECT_EQ(changed("reserve", std::string(1000, 'n')), "ok");
  EXPECT_EQ(changed("completed", std::string(1000, 'n')),
            fmt::format(R"(status: "{}...", expected the string "completed")", std::string(64, 'n')));
  // Cut inside a letter of two bytes.
  EXPECT_EQ(changed("completed", std::string(63, 'n') + "\u00e9\u00e9"),
            fmt::format("status: \"{}\ufffd...\", expected the string \"completed\"", std::string(63, 'n')));
}

TEST_F(RankTableFile, FilesThatCanNotBeRead) {
  const auto absent = folder_ / "absent.json";
  EXPECT_EQ(outcome([&] { read_rank_table(absent); }),
            fmt::format("GroupError: rank table '{}': can't be opened: No such file or directory",
                        absent.string()));
  EXPECT_EQ(outcome([&] { read_rank_table(folder_); }),
            fmt::format("GroupError: rank table '{}': can't be read: Is a directory", folder_.string()));
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
  EXPECT_EQ(
      outcome([&] {
        own_server(table, {"10.0.0.2", "127.0.0.1"});
      }),  // its pod_ip takes precedence
      "GroupError: rank table: none of its servers (pod_ip, or where there is none, server_id: 10.0.0.1, "
      "10.1.0.2) is this machine, whose addresses are 10.0.0.2, 127.0.0.1; expected one");
  EXPECT_EQ(
      outcome([&] {
        own_server(table, {"10.0.0.1", "10.1.0.2"});
      }),
      "GroupError: rank table: several, 10.0.0.1 (server_id 10.0.0.1) and 10.1.0.2 (server_id 10.0.0.2), of "
      "its servers (pod_ip, or where there is none, server_id: 10.0.0.1, 10.1.0.2) are this machine, whose "
      "addresses are 10.0.0.1, 10.1.0.2; expected one");
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
