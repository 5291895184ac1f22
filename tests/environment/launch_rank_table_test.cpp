// SPDX-License-Identifier: Apache-2.0

// Rank tables as a launcher's environment names them: msrun's re-mapping, and processes started by hand
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "../ranks.h"
#include "environment/launch_env.h"

namespace syncbn::environment {
namespace {

using testing::expect_error;
using testing::outcome;
using Variables = std::map<std::string, std::string>;

// Two servers, of which the second is this machine. Rank 0 is on its device 6.
const std::string kTable = R"({"version": "1.0", "server_count": "2", "status": "completed", "server_list": [
  {"server_id": "10.255.255.1", "device": [
    {"device_id": "0", "device_ip": "192.168.1.6", "rank_id": "3"},
    {"device_id": "1", "device_ip": "192.168.2.6", "rank_id": "1"}]},
  {"server_id": "10.255.255.2", "pod_ip": "127.0.0.1", "device": [
    {"device_id": "4", "device_ip": "192.168.1.8", "rank_id": "2"},
    {"device_id": "6", "device_ip": "192.168.2.8", "rank_id": "0"}]}]})";

class LaunchRankTable : public ::testing::Test {
 protected:
  LaunchRankTable() {
    std::filesystem::create_directory(folder_);
    write(kTable);
  }
  ~LaunchRankTable() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& text) const { std::ofstream(file_, std::ios::trunc) << text; }
  LaunchEnv read(Variables variables) const {
    variables.emplace("RANK_TABLE_FILE", file_.string());
    return read_launch_env([&](const char* name) -> std::optional<std::string> {
      const auto found = variables.find(name);
      return found == variables.end() ? std::nullopt : std::optional(found->second);
    });
  }
  std::string refusal(const Variables& variables) const {
    return outcome([&] { read(variables); });
  }
  Variables msrun(const std::string& device) const {
    return {{"MS_ROLE", "MS_WORKER"},  {"MS_WORKER_NUM", "4"}, {"MS_SCHED_HOST", "127.0.0.1"},
            {"MS_SCHED_PORT", "8118"}, {"RANK_ID", "3"},       {"DEVICE_ID", device}};
  }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / fmt::format("syncbn_launch_table_{}", getpid());
  const std::filesystem::path file_ = folder_ / "table.json";
};

// control: with the devices looked up by their device_id, this finds none; with the ranks of RANK_ID, both
// are 3.
TEST_F(LaunchRankTable, MsrunsRanksAreRemapped) {
  EXPECT_EQ(read(msrun("0")).world.rank, 2);
  EXPECT_EQ(read(msrun("1")).world.rank, 0);
  EXPECT_EQ(read(msrun("1")).world.serve,
            Serve::if_port_is_free);  // rank 0 need not be on the scheduler's machine
  EXPECT_EQ(read(msrun("1")).launcher, "msrun");
  EXPECT_EQ(read(msrun("1")).local_rank, 1);
}

TEST_F(LaunchRankTable, MsrunWithATableThatCantBeUsed) {
  expect_error<GroupError>(refusal(msrun("2")), {"DEVICE_ID ... 2", "RANK_TABLE_FILE ... 2 devices"});
  Variables more = msrun("0");
  more["MS_WORKER_NUM"] = "8";
  expect_error<GroupError>(refusal(more), {"RANK_TABLE_FILE ... 4 devices", "MS_WORKER_NUM ... 8"});
  Variables nowhere = msrun("0");
  nowhere.erase("DEVICE_ID");
  expect_error<GroupError>(refusal(nowhere), {"DEVICE_ID"});
  std::string text = kTable;
  write(text.replace(text.find("\"127.0.0.1\""), 11, "\"10.255.255.3\""));
  expect_error<GroupError>(refusal(msrun("0")), {"10.255.255.3"});
  write("{}");
  expect_error<GroupError>(refusal(msrun("0")), {"version"});
}

TEST_F(LaunchRankTable, MsrunsSchedulerHasNoDevice) {
  Variables scheduler = msrun("0");
  scheduler.erase("DEVICE_ID");
  scheduler["MS_ROLE"] = "MS_SCHED";
  EXPECT_TRUE(read(scheduler).scheduler);
}

TEST_F(LaunchRankTable, SyncbnRunHasRemappedAlready) {
  const LaunchEnv env = read({{"SYNCBN_STORE", "h:5"}, {"RANK_ID", "1"}, {"RANK_SIZE", "2"}});
  EXPECT_EQ(env.launcher, "syncbn-run");
  EXPECT_EQ(env.world.rank, 1);
}

TEST_F(LaunchRankTable, ByHand) {
  const LaunchEnv env = read({{"RANK_ID", "2"}, {"DEVICE_ID", "4"}, {"RANK_SIZE", "4"}});
  EXPECT_EQ(env.launcher, "the rank table");
  EXPECT_EQ(env.backend, Backend::gloo);
  EXPECT_EQ(env.world.rank, 2);
  EXPECT_EQ(env.world.size, 4);
  EXPECT_EQ(env.world.host, "127.0.0.1");  // the pod's, where rank 0 is
  EXPECT_EQ(env.world.port, 8119);
  EXPECT_EQ(env.world.serve, Serve::no);
  EXPECT_EQ(env.local_rank, 1);  // rank 0 is before it
  EXPECT_EQ(env.local_size, 2);
  EXPECT_EQ(read({{"RANK_ID", "0"}}).world.serve, Serve::yes);
  EXPECT_EQ(read({{"RANK_ID", "0"}}).local_rank, 0);
  EXPECT_EQ(read({{"RANK_ID", "3"}, {"SYNCBN_PORT", "77"}}).world.port, 77);
}

TEST_F(LaunchRankTable, ByHandRefused) {
  expect_error<GroupError>(refusal({}), {"RANK_ID"});
  expect_error<GroupError>(refusal({{"RANK_ID", "4"}}), {"rank 4 ... 4 ranks"});
  expect_error<GroupError>(refusal({{"RANK_ID", "2"}, {"DEVICE_ID", "6"}}),
                           {"DEVICE_ID ... '6'", "RANK_TABLE_FILE ... rank 2 ... device_id ... '4'"});
  expect_error<GroupError>(refusal({{"RANK_ID", "2"}, {"RANK_SIZE", "8"}}),
                           {"RANK_SIZE ... 8", "RANK_TABLE_FILE ... 4 devices"});
  std::filesystem::remove(file_);
  expect_error<GroupError>(refusal({{"RANK_ID", "2"}}), {file_.string()});
}

}  // namespace
}  // namespace syncbn::environment
