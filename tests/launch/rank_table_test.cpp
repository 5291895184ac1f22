// SPDX-License-Identifier: Apache-2.0

// --rank_table_file gives the workers their ranks and devices; --check_rank_table looks at one.
#include "environment/rank_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "job.h"

namespace syncbn::launch {
namespace {

constexpr int kUsage = 2;

struct Server {
  std::string id;
  std::vector<std::pair<std::string, int>> devices;  // device_id, rank_id
};

std::string table_of(const std::vector<Server>& servers, const std::string& more = "") {
  Strings list;
  for (const Server& server : servers) {
    Strings devices;
    for (const auto& [id, rank] : server.devices)
      devices.push_back(
          fmt::format(R"({{"device_id": "{}", "device_ip": "192.168.1.6", "rank_id": "{}"}})", id, rank));
    list.push_back(fmt::format(R"({{"server_id": "{}", "host_nic_ip": "reserve", "device": [{}]}})",
                               server.id, fmt::join(devices, ", ")));
  }
  return fmt::format(
      R"({{"version": "1.0", "server_count": "{}", "status": "completed",{} "server_list": [{}]}})",
      servers.size(), more, fmt::join(list, ", "));
}

std::string here() { return environment::local_addresses().front(); }
const std::string kElsewhere = "203.0.113.7";  // kept for documentation, so no machine has it

class RankTableTest : public JobTest {
 protected:
  Job& start_with(const std::string& table, Strings options, const std::string& script) {
    options.push_back("--rank_table_file=" + write("table.json", table).string());
    return start_shell(options, script);
  }
};

TEST_F(RankTableTest, RanksAndDevicesAreTheTables) {
  // control: with Placement's ranks in their place every line differs.
  const std::string table = table_of({{here(), {{"4", 3}, {"5", 2}, {"6", 0}, {"7", 1}}}});
  Job& job = start_with(table, options(4), "echo $RANK_ID $RANK $DEVICE_ID $LOCAL_RANK $RANK_TABLE_FILE");
  ASSERT_EQ(job.wait(), 0) << job.err();
  const std::string file = (folder() / "table.json").string();
  const std::map<int, int> device_of = {{0, 6}, {1, 7}, {2, 5}, {3, 4}};
  for (const auto& [rank, device] : device_of)
    EXPECT_EQ(log(rank), fmt::format("{0} {0} {1} {0} {2}\n", rank, device, file));
}

TEST_F(RankTableTest, AFailureIsToldByTheTablesRank) {
  const std::string table = table_of({{here(), {{"0", 1}, {"1", 0}}}});
  Job& job = start_with(table, options(2), "if [ $DEVICE_ID = 0 ]; then echo reason; exit 3; fi; sleep 1000");
  EXPECT_EQ(job.wait(), 3);
  EXPECT_TRUE(contains(job.err(), "rank 1 ... exit code 3") && contains(job.out(), "[1] reason\n"))
      << job.err();
}

TEST_F(RankTableTest, KeysThatAreIgnoredAreTold) {
  const std::string table = table_of({{here(), {{"0", 0}}}}, R"( "cluster_list": [],)");
  Job& job = start_with(table, options(1), "true");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(contains(job.err(), "cluster_list") && contains(job.err(), "ignored")) << job.err();
}

TEST_F(RankTableTest, ThatDoesNotFitTheJobIsRefused) {
  struct Case {
    std::string table;
    Strings message;
  };
  const std::vector<Case> cases = {
      {table_of({{here(), {{"0", 0}}}}), {"1 devices", "--worker_num ... 2"}},
      {table_of({{kElsewhere, {{"0", 0}, {"1", 1}}}}), {kElsewhere, here()}},
      {table_of({{here(), {{"0", 0}}}, {kElsewhere, {{"0", 1}}}}),
       {"server '" + here() + "'", "1 devices", "--local_worker_num ... 2"}},
      {table_of({{here(), {{"0", 0}, {"1", 0}}}}), {"server_list[0].device[1].rank_id"}},
      {"{", {"table.json", "JSON"}},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.table);
    Job& job = start_with(bad.table, options(2), "touch $DIR/started");
    EXPECT_EQ(job.wait(), kUsage);
    EXPECT_TRUE(contains(job.err(), "--rank_table_file")) << job.err();
    for (const std::string& part : bad.message)
      EXPECT_TRUE(contains(job.err(), part)) << part << "\n" << job.err();
    EXPECT_FALSE(std::filesystem::exists(folder() / "started"));
  }
}

TEST_F(RankTableTest, ADryRunNeedsNoServerOfItsOwn) {
  const std::string table = table_of({{kElsewhere, {{"0", 0}, {"1", 1}}}});
  Strings dry_run = options(2);
  dry_run.insert(dry_run.end(), {"--sim_level=0", "--sim_rank_id=1"});
  Job& job = start_with(table, dry_run, "echo $RANK_ID $RANK_TABLE_FILE");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(1), fmt::format("1 {}\n", (folder() / "table.json").string()));
}

TEST_F(RankTableTest, TheCheckShowsWhatIsInIt) {
  const auto file = write("table.json", table_of({{here(), {{"0", 1}, {"1", 0}}}, {kElsewhere, {{"4", 2}}}},
                                                 R"( "cluster_list": [],)"));
  Job& job = start({"--check_rank_table", file.string()}, {});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(job.err(), "");
  const Strings lines = lines_of(job.out());
  ASSERT_GE(lines.size(), 6U) << job.out();
  EXPECT_EQ(lines[0], fmt::format("rank table '{}' is valid: 2 servers, 3 devices", file.string()));
  const auto words = [](const std::string& line) {
    std::istringstream input(line);
    Strings result;
    for (std::string word; input >> word;) result.push_back(word);
    return result;
  };
  EXPECT_EQ(words(lines[1]), (Strings{"server_id", "pod_ip", "device_id", "rank_id"}));
  EXPECT_EQ(words(lines[2]), (Strings{here(), "-", "0", "1", "1", "0"}));
  EXPECT_EQ(words(lines[3]), (Strings{kElsewhere, "-", "4", "2"}));
  EXPECT_TRUE(lines[4].starts_with("note: ") && contains(lines[4], "cluster_list")) << lines[4];
  EXPECT_EQ(lines.back(), "this machine is server " + here());
}

TEST_F(RankTableTest, TheCheckPointsAtTheWrongKey) {
  const auto file = write("table.json", table_of({{here(), {{"0", 0}, {"1", 7}}}}));
  Job& job = start({"--check_rank_table=" + file.string()}, {});
  EXPECT_EQ(job.wait(), kUsage);
  EXPECT_EQ(job.out(), "");
  for (const std::string& part :
       {file.string(), std::string("server_list[0].device[1].rank_id"), std::string("\"7\"")})
    EXPECT_TRUE(contains(job.err(), part)) << part << "\n" << job.err();
}

}  // namespace
}  // namespace syncbn::launch
