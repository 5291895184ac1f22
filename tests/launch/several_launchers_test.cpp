// SPDX-License-Identifier: Apache-2.0

// What options and console make of a job of several nodes. Here all nodes are this machine: its first
// launcher serves the job, the second finds it there.
#include <fmt/core.h>

#include "environment/rank_table.h"
#include "terminal.h"

namespace syncbn::launch {
namespace {

const std::string kWait = "until [ -e $DIR/go ]; do sleep 0.01; done";

class SeveralLaunchersTest : public JobTest {
 protected:
  // Of one of two launchers, each with one worker and a log folder of its own.
  Strings launcher(int number, const Strings& more) const {
    Strings all = {"--worker_num=2", "--local_worker_num=1", fmt::format("--master_port={}", port_ - 1),
                   "--log_dir=" + place(number).string()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::filesystem::path place(int number) const { return folder() / fmt::format("launcher{}", number); }
  std::string logs() const {  // of both, whichever rank is where
    std::string text;
    for (const int number : {0, 1})
      for (const int rank : {0, 1}) text += read_file(place(number) / fmt::format("worker_{}.log", rank));
    return text;
  }
  // This machine is its first server.
  std::filesystem::path table(const std::string& name, const std::string& first_rank,
                              const std::string& second_rank) const {
    const std::string device = R"({{"device_id": "0", "device_ip": "192.168.1.6", "rank_id": "{}"}})";
    const std::string server = R"({{"server_id": "{}", "host_nic_ip": "reserve", "device": [{}]}})";
    return write(name, fmt::format(R"({{"version": "1.0", "server_count": "2", "status": "completed",)"
                                   R"("server_list": [{}, {}]}})",
                                   fmt::format(fmt::runtime(server), environment::local_addresses().front(),
                                               fmt::format(fmt::runtime(device), first_rank)),
                                   fmt::format(fmt::runtime(server), "203.0.113.7",
                                               fmt::format(fmt::runtime(device), second_rank))));
  }

 private:
  int port_ = free_port();
};

TEST_F(SeveralLaunchersTest, InTheBackgroundReturnBeforeTheOthersCome) {
  // control: where the background waits for `started`, the first one's end is not seen.
  Job& first = start_shell(launcher(0, {}), kWait + "; echo done");
  EXPECT_EQ(first.wait(), 0) << first.err();
  EXPECT_TRUE(contains(first.err(), "waits in the background for its other nodes")) << first.err();
  Job& second = start_shell(launcher(1, {}), kWait + "; echo done");
  EXPECT_EQ(second.wait(), 0) << second.err();
  write("go", "");
  EXPECT_TRUE(all_gone());
  EXPECT_EQ(logs(), "done\ndone\n");
  for (const int number : {0, 1}) {
    const Strings lines = lines_of(read_file(place(number) / "syncbn-run.log"));
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_TRUE(lines[0].starts_with("syncbn-run: started 1 of 2 workers (rank ")) << lines[0];
    EXPECT_EQ(lines[1], "syncbn-run: all workers exited with 0");
  }
}

TEST_F(SeveralLaunchersTest, WhatTheBackgroundWaitedForInVainIsInItsLog) {
  Job& job = start_shell(launcher(0, {"--cluster_time_out=1"}), "true");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(all_gone());
  const std::string log = read_file(place(0) / "syncbn-run.log");
  EXPECT_TRUE(contains(log, "1 of 2 workers are missing after 1 s")) << log;
}

TEST_F(SeveralLaunchersTest, TheStatusLineTellsWhoIsAwaited) {
  TerminalJob first(command(launcher(0, {"--join=True"}), {"bash", "-c", kWait}), marked({{"TERM", "xterm"}}),
                    120);
  EXPECT_TRUE(first.bottom_becomes("syncbn-run: waiting for the launchers of 1 of 2 workers"))
      << first.bytes();
  Job& second = start_shell(launcher(1, {"--join=True"}), kWait);
  EXPECT_TRUE(first.bottom_becomes("syncbn-run: 1 of 2 workers: 1 up, 0 joined, 1 running, 0 done"))
      << first.bytes();
  write("go", "");
  EXPECT_EQ(first.wait(), 0) << first.bytes();
  EXPECT_EQ(second.wait(), 0) << second.err();
  const Strings lines = lines_of(second.err());
  ASSERT_EQ(lines.size(), 3U) << second.err();
  EXPECT_EQ(lines[0], "syncbn-run: waiting for the launchers of 1 of 2 workers");
}

TEST_F(SeveralLaunchersTest, OneStartsTheScheduler) {
  const std::string script = "if [ $MS_ROLE = MS_SCHED ]; then echo I am it; exec sleep 1000; fi; " + kWait;
  for (const int number : {0, 1}) {
    Job& job = start_shell(launcher(number, {"--ms_scheduler=True"}), script);
    EXPECT_EQ(job.wait(), 0) << job.err();
  }
  const auto scheduler_logs = [&] {
    return read_file(place(0) / "scheduler.log") + read_file(place(1) / "scheduler.log");
  };
  EXPECT_TRUE(wait_until([&] { return scheduler_logs() == "I am it\n"; })) << scheduler_logs();
  write("go", "");
  EXPECT_TRUE(all_gone());
  EXPECT_EQ(scheduler_logs(), "I am it\n");
}

TEST_F(SeveralLaunchersTest, AServerOfTheRankTableHasOneLauncher) {
  const std::string option = "--rank_table_file=" + table("table.json", "0", "1").string();
  for (const int number : {0, 1}) start_shell(launcher(number, {option}), "true").wait();
  EXPECT_TRUE(all_gone());
  for (const int number : {0, 1}) {
    const std::string log = read_file(place(number) / "syncbn-run.log");
    EXPECT_TRUE(
        contains(log, "--rank_table_file") &&
        contains(log, fmt::format("are both its server '{}'", environment::local_addresses().front())))
        << log;
  }
}

TEST_F(SeveralLaunchersTest, TheRankTableIsTheSameEverywhere) {
  start_shell(launcher(0, {"--rank_table_file=" + table("one.json", "0", "1").string()}), "true").wait();
  start_shell(launcher(1, {"--rank_table_file=" + table("other.json", "1", "0").string()}), "true").wait();
  EXPECT_TRUE(all_gone());
  for (const int number : {0, 1}) {
    const std::string log = read_file(place(number) / "syncbn-run.log");
    EXPECT_TRUE(contains(log, "--rank_table_file of ") && contains(log, "allowed: the same table")) << log;
  }
}

}  // namespace
}  // namespace syncbn::launch
