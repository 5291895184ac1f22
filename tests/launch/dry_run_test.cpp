// SPDX-License-Identifier: Apache-2.0

// --sim_level: one worker of a large world, which meets nobody.
#include <fmt/core.h>

#include <algorithm>

#include "job.h"

namespace syncbn::launch {
namespace {

using DryRunTest = JobTest;

const std::vector<std::string> kMeetingPlace = {
    "MASTER_ADDR",   "MASTER_PORT",   "MS_ROLE",      "MS_WORKER_NUM", "MS_NODE_ID",
    "MS_SCHED_HOST", "MS_SCHED_PORT", "SYNCBN_STORE", "SYNCBN_TOKEN",  "MS_TOPO_TIMEOUT"};

Variables variables_in(const std::string& log) {
  Variables found;
  for (const std::string& line : lines_of(log))
    found[line.substr(0, line.find('='))] = line.substr(line.find('=') + 1);
  return found;
}

Strings dry_run(const std::filesystem::path& log_dir, const Strings& more) {
  Strings options = {"--worker_num=1024", "--join=True", "--log_dir=" + log_dir.string()};
  options.insert(options.end(), more.begin(), more.end());
  return options;
}

TEST_F(DryRunTest, OneWorkerFindsAWorldWithoutAMeetingPlace) {
  Variables outside;  // a job around this one
  for (const std::string& name : kMeetingPlace) outside[name] = "left over";
  for (const int rank : {0, 1023}) {
    Strings more = {"--sim_level=2"};
    if (rank != 0) more.push_back(fmt::format("--sim_rank_id={}", rank));
    Job& job = start(dry_run(log_dir(), more), {"env"}, outside);
    ASSERT_EQ(job.wait(), 0) << job.err();
    EXPECT_TRUE(contains(job.err(), "started 1 worker;")) << job.err();
    Variables found = variables_in(log(rank));
    const std::string number = std::to_string(rank);
    const Variables expected = {
        {"RANK_ID", number}, {"RANK", number},    {"RANK_SIZE", "1024"},     {"WORLD_SIZE", "1024"},
        {"DEVICE_ID", "0"},  {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "1"}, {"MS_SIMULATION_LEVEL", "2"}};
    for (const auto& [name, value] : expected) EXPECT_EQ(found[name], value) << name;
    for (const std::string& name : kMeetingPlace) EXPECT_FALSE(found.contains(name)) << name << found[name];
  }
  // control: the same names are set in a real job.
  Job& real = start(options(2), {"env"}, outside);
  ASSERT_EQ(real.wait(), 0) << real.err();
  Variables found = variables_in(log(0));
  EXPECT_TRUE(found.contains("SYNCBN_STORE") && found.contains("MASTER_ADDR"));
  EXPECT_NE(found["SYNCBN_STORE"], "left over");
  EXPECT_FALSE(found.contains("MS_SIMULATION_LEVEL"));
}

TEST_F(DryRunTest, ServesNoStore) {
  const std::string connect = "exec 3<>/dev/tcp/127.0.0.1/$SYNCBN_PORT";
  const Variables port = {{"SYNCBN_PORT", std::to_string(free_port())}};
  Job& job = start_shell(dry_run(log_dir(), {"--sim_level=0"}), connect + " || echo nobody", port);
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(contains(log(0), "nobody\n")) << log(0);
  Job& control = start_shell(options(1), connect + " && echo served", port);
  EXPECT_EQ(control.wait(), 0) << control.err();
  EXPECT_EQ(log(0), "served\n");
}

TEST_F(DryRunTest, TheVariableAsksForOneToo) {
  Job& job = start_shell(dry_run(log_dir(), {}), "echo $MS_SIMULATION_LEVEL $RANK_SIZE",
                         {{"MS_SIMULATION_LEVEL", "1"}});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0), "1 1024\n");
  Job& above = start_shell(dry_run(log_dir(), {"--sim_level=3"}), "echo $MS_SIMULATION_LEVEL",
                           {{"MS_SIMULATION_LEVEL", "1"}});
  EXPECT_EQ(above.wait(), 0) << above.err();
  EXPECT_EQ(log(0), "3\n") << "the option is above the variable";
  Job& bad = start(dry_run(log_dir(), {}), {"true"}, {{"MS_SIMULATION_LEVEL", "high"}});
  EXPECT_EQ(bad.wait(), 2);
  EXPECT_TRUE(contains(bad.err(), "MS_SIMULATION_LEVEL ... 'high'")) << bad.err();
}

TEST_F(DryRunTest, EndsAsItsWorkerDoes) {
  Job& job = start_shell(dry_run(log_dir(), {"--sim_level=0", "--sim_rank_id=7"}), "echo reason; exit 9");
  EXPECT_EQ(job.wait(), 9);
  EXPECT_TRUE(contains(job.err(), "rank 7 ... exit code 9") && contains(job.out(), "[7] reason\n"))
      << job.err();
}

}  // namespace
}  // namespace syncbn::launch
