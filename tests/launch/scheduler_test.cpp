// SPDX-License-Identifier: Apache-2.0

// --ms_scheduler: the task once more as MindSpore's scheduler, and what it and the workers find. Shell
// scripts stand for programs here: only MindSpore knows what these variables are for.
#include <fmt/core.h>
#include <signal.h>

#include "job.h"
#include "programs.h"

namespace syncbn::launch {
namespace {

const std::string kScheduler = "if [ \"$MS_ROLE\" = MS_SCHED ]; then ";

class SchedulerTest : public JobTest {
 protected:
  Job& start_with_scheduler(const std::string& script, const Strings& more = {},
                            const Variables& outside = {}) {
    Strings all = options(2);
    all.push_back("--ms_scheduler=True");
    all.insert(all.end(), more.begin(), more.end());
    return start_shell(all, script, outside);
  }
  std::string scheduler_log() const { return read_file(log_dir() / "scheduler.log"); }
};

Variables variables_in(const std::string& log) {
  Variables found;
  for (const std::string& line : lines_of(log)) {
    const std::size_t equals = line.find('=');
    if (equals != std::string::npos) found[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return found;
}

TEST_F(SchedulerTest, ItAndTheWorkersFindWhatMindSporeReads) {
  // As MindSpore's msrun sets them. control: without plan_scheduler in start_workers there is no log.
  const int port = free_port();
  const Strings more = {"--master_addr=localhost", "--cluster_time_out=77", "--worker_log_name=w"};
  Strings all = options(2);
  all[2] = fmt::format("--master_port={}", port);
  all.push_back("--ms_scheduler=True");
  all.insert(all.end(), more.begin(), more.end());
  Job& job = start_shell(
      all,
      "env; " + kScheduler + "touch $DIR/up; exec sleep 1000; fi; until [ -e $DIR/up ]; do sleep 0.01; done",
      {{"SYNCBN_PORT", std::to_string(free_port())},
       {"MS_NODE_ID", "left over"},
       {"DEVICE_ID", "left over"},
       {"LOCAL_RANK", "left over"}});
  ASSERT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(all_gone());
  EXPECT_FALSE(contains(job.err(), "processes")) << job.err();
  EXPECT_FALSE(contains(job.out(), "MS_ROLE=MS_SCHED")) << "only the workers' output is shown";
  const Variables common = {{"MS_WORKER_NUM", "2"},
                            {"MS_SCHED_PORT", std::to_string(port)},
                            {"MS_TOPO_TIMEOUT", "77"},
                            {"RANK_SIZE", "2"}};
  Variables found = variables_in(scheduler_log());
  for (const auto& [name, value] : common) EXPECT_EQ(found[name], value) << name;
  const std::string host = found["MS_SCHED_HOST"];
  EXPECT_TRUE(host == "127.0.0.1" || host == "::1") << host;
  EXPECT_EQ(found["MS_ROLE"], "MS_SCHED");
  EXPECT_EQ(found["RANK_ID"], "0");
  for (const char* name : {"DEVICE_ID", "MS_NODE_ID", "LOCAL_RANK", "RANK", "SYNCBN_STORE", "SYNCBN_TOKEN"})
    EXPECT_FALSE(found.contains(name)) << name;
  for (int rank = 0; rank < 2; ++rank) {
    Variables worker = variables_in(read_file(log_dir() / fmt::format("w_{}.log", rank)));
    for (const auto& [name, value] : common) EXPECT_EQ(worker[name], value) << name;
    EXPECT_EQ(worker["MS_SCHED_HOST"], host);
    EXPECT_EQ(worker["MS_ROLE"], "MS_WORKER");
    for (const char* name : {"MS_NODE_ID", "RANK_ID", "DEVICE_ID"})
      EXPECT_EQ(worker[name], std::to_string(rank));
    EXPECT_TRUE(worker.contains("SYNCBN_STORE"));
  }
}

TEST_F(SchedulerTest, ItsFailureIsTheJobs) {
  Job& job =
      start_with_scheduler(kScheduler + "echo no port; exit 3; fi; trap '' TERM; while :; do sleep 1; done");
  EXPECT_EQ(job.wait(), 3);
  EXPECT_TRUE(contains(job.err(), "the scheduler ... exit code 3") && contains(job.err(), "  | no port\n") &&
              contains(job.err(), "scheduler.log"))
      << job.err();
  EXPECT_TRUE(processes().empty());
}

TEST_F(SchedulerTest, IsSuggestedWhereMindSporeAsksForItsOwnLauncher) {
  // The words of MindSpore 2.10's init() without the variables of a scheduler.
  const std::string script =
      "cat <<'EOF'\nRuntimeError: Maybe you are trying to call 'mindspore.communication.init()' without "
      "using 'mpirun', "
      "which will make MindSpore load several environment variables and check their validation. Please use "
      "'mpirun' to "
      "launch this process to fix this issue, or refer to this link if you want to run distributed training "
      "using "
      "'msrun'\n\n----\n- C++ Call Stack: (For framework developers)\n----\ncollective_manager.cc:166 "
      "Initialize\n"
      "EOF\nexit 1";
  const std::string hint = "the program calls init() of MindSpore: start it with --ms_scheduler=True\n";
  Job& job = start_shell(options(2), script);
  EXPECT_EQ(job.wait(), 1);
  EXPECT_TRUE(contains(job.err(), hint)) << job.err();
  Job& control = start_shell(options(2), "echo another error; exit 1");
  EXPECT_EQ(control.wait(), 1);
  EXPECT_FALSE(contains(control.err(), "--ms_scheduler")) << control.err();
}

TEST_F(SchedulerTest, AWorkersFailureEndsItToo) {
  Job& job = start_with_scheduler(kScheduler +
                                  "trap '' TERM; touch $DIR/up; while :; do sleep 1; done; fi; "
                                  "until [ -e $DIR/up ]; do sleep 0.01; done; exit $((4 + RANK))");
  const int code = job.wait();
  EXPECT_TRUE(code == 4 || code == 5) << code;
  EXPECT_TRUE(contains(job.err(), fmt::format("rank {} ... exit code {}", code - 4, code))) << job.err();
  EXPECT_TRUE(processes().empty());
}

TEST_F(SchedulerTest, ItsGoodEndLetsTheWorkersRunOn) {
  Job& job = start_with_scheduler(kScheduler +
                                  "touch $DIR/gone; exit 0; fi; until [ -e $DIR/go ]; do sleep 0.01; done");
  ASSERT_TRUE(appears("gone"));
  write("go", "");
  EXPECT_EQ(job.wait(), 0) << job.err();
}

TEST_F(SchedulerTest, IsAloneInWatchingWhoJoins) {
  const std::string script =
      kScheduler + "exec sleep 1000; fi; [ $RANK = 0 ] && " + join_as_rank() + "sleep 2";
  Job& job = start_with_scheduler(script, {"--cluster_time_out=1"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  Strings without = options(2);
  without.push_back("--cluster_time_out=1");
  Job& control = start_shell(without, script);
  EXPECT_EQ(control.wait(), 124) << control.err();
}

TEST_F(SchedulerTest, InTheBackgroundItEndsWithTheWorkers) {
  Strings background = options(2);
  background.back() = "--join=False";
  background.push_back("--ms_scheduler=True");
  Job& job =
      start_shell(background, kScheduler + "exec sleep 1000; fi; until [ -e $DIR/go ]; do sleep 0.01; done");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_GE(processes().size(), 4U) << "two workers, the scheduler, the supervisor";
  write("go", "");
  EXPECT_TRUE(all_gone());
}

}  // namespace
}  // namespace syncbn::launch
