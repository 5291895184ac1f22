// SPDX-License-Identifier: Apache-2.0

// A job that is ended from outside, and a job in the background.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <stdexcept>

#include "job.h"

namespace syncbn::launch {
namespace {

using EndingTest = JobTest;
using BackgroundTest = JobTest;

// Workers deaf to every polite signal, each with a child and a daemon in a session of its own.
const std::string kStubborn =
    "trap '' TERM INT HUP; echo $PPID > $DIR/supervisor; setsid bash -c 'sleep 1000' & (setsid sleep 1000 &) "
    "; "
    "touch $DIR/ready$RANK; while :; do sleep 1000; done";

TEST_F(EndingTest, SignalsEndTheWholeJob) {
  for (const auto& [number, name] :
       std::map<int, std::string>{{SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}, {SIGHUP, "SIGHUP"}}) {
    SCOPED_TRACE(name);
    Job& job = start_shell(options(2), kStubborn);
    ASSERT_TRUE(appears("ready0") && appears("ready1"));
    job.signal(number);
    EXPECT_EQ(job.wait(), 128 + number);
    EXPECT_TRUE(contains(job.err(), name)) << job.err();
    EXPECT_TRUE(processes().empty()) << "nothing is left when the launcher returns";
    std::filesystem::remove(folder() / "ready0");
    std::filesystem::remove(folder() / "ready1");
  }
}

// control: signal number 0 does no harm if the guard is missing.
TEST_F(EndingTest, TheTestsSignalNoJobThatHasEnded) {
  Job& job = start_shell(options(1), "exit 0");
  EXPECT_EQ(job.wait(), 0);
  EXPECT_THROW(job.signal(0), std::logic_error);
}

TEST_F(EndingTest, AKilledLauncherLeavesNothing) {
  // control: without PR_SET_PDEATHSIG in run_supervisor everything goes on.
  Job& job = start_shell(options(2), kStubborn);
  ASSERT_TRUE(appears("ready0") && appears("ready1"));
  job.signal(SIGKILL);
  EXPECT_EQ(job.wait(), -SIGKILL);
  EXPECT_TRUE(all_gone());
}

TEST_F(EndingTest, AKilledSupervisorLeavesNothing) {
  // control: without become_subreaper() in run_in_foreground the daemons go on.
  Job& job = start_shell(options(2), kStubborn);
  ASSERT_TRUE(appears("ready0") && appears("ready1"));
  kill(read_pid("supervisor"), SIGKILL);
  EXPECT_EQ(job.wait(), 128 + SIGKILL);
  EXPECT_TRUE(contains(job.err(), "supervisor ... signal 9 (SIGKILL)")) << job.err();
  EXPECT_TRUE(processes().empty());
}

TEST_F(EndingTest, AnIgnoredHangupStaysIgnored) {
  signal(SIGHUP, SIG_IGN);  // as nohup does for the program it starts
  Job& job = start_shell(options(1), "touch $DIR/ready0; until [ -e $DIR/go ]; do sleep 0.01; done");
  signal(SIGHUP, SIG_DFL);
  ASSERT_TRUE(appears("ready0"));
  job.signal(SIGHUP);
  write("go", "");
  EXPECT_EQ(job.wait(), 0) << job.err();
}

TEST_F(EndingTest, AConsoleThatIsClosedEndsTheJob) {
  // As in: syncbn-run … | head -1
  const std::string command = fmt::format(
      "DIR={0} SYNCBN_TEST_MARK={1} {2} {3} bash -c 'while :; do echo y; sleep 0.01; done' 2>/dev/null",
      folder().string(), folder().filename().string(), SYNCBN_RUN, fmt::join(options(2), " "));
  FILE* console = popen(command.c_str(), "r");
  ASSERT_NE(console, nullptr);
  std::array<char, 64> line{};
  EXPECT_NE(std::fgets(line.data(), static_cast<int>(line.size()), console), nullptr);
  // A worker that is about to become its program has no environment, and so no mark, for a moment.
  EXPECT_TRUE(wait_until([&] { return processes().size() >= 4U; }));
  pclose(console);
  EXPECT_TRUE(all_gone());
}

Strings in_background(Strings options) {
  options.back() = "--join=False";
  return options;
}

TEST_F(BackgroundTest, ReturnsAtOnceAndLetsGoOfTheConsole) {
  const std::string command = fmt::format(
      "DIR={0} SYNCBN_TEST_MARK={1} {2} {3} bash -c 'until [ -e $DIR/go ]; do sleep 0.01; done; echo done' "
      "2>&1",
      folder().string(), folder().filename().string(), SYNCBN_RUN, fmt::join(in_background(options(2)), " "));
  FILE* console = popen(command.c_str(), "r");
  ASSERT_NE(console, nullptr);
  std::string said;
  std::array<char, 4096> chunk{};
  // To the end of the pipe: who still held it would keep this waiting until the test's own deadline.
  while (const std::size_t size = std::fread(chunk.data(), 1, chunk.size(), console))
    said.append(chunk.data(), size);
  EXPECT_EQ(pclose(console), 0);
  EXPECT_TRUE(contains(said, "started 2 workers in the background")) << said;
  EXPECT_TRUE(wait_until([&] { return processes().size() >= 3U; }))
      << "two workers and their supervisor run on";
  write("go", "");
  EXPECT_TRUE(all_gone()) << "the supervisor ends with the workers";
  EXPECT_EQ(log(0) + log(1), "done\ndone\n");
  EXPECT_EQ(read_file(log_dir() / "syncbn-run.log"), "syncbn-run: all workers exited with 0\n");
}

TEST_F(BackgroundTest, TheStoreIsServedUntilTheEnd) {
  const std::string connect = "exec 3<>/dev/tcp/${SYNCBN_STORE/://}";
  Job& job = start_shell(in_background(options(2)),
                         "until [ -e $DIR/go ]; do sleep 0.01; done; " + connect + " && echo served");
  ASSERT_EQ(job.wait(), 0) << job.err();
  write("go", "");
  EXPECT_TRUE(all_gone());
  EXPECT_EQ(log(0) + log(1), "served\nserved\n");
}

TEST_F(BackgroundTest, AFailureEndsTheJobAndIsReportedInTheLog) {
  Job& job =
      start_shell(in_background(options(2)), "if [ $RANK = 1 ]; then echo reason; exit 6; fi; " + kStubborn);
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(all_gone());
  const std::string report = read_file(log_dir() / "syncbn-run.log");
  EXPECT_TRUE(contains(report, "rank 1 ... exit code 6") && contains(report, "  | reason\n")) << report;
}

TEST_F(BackgroundTest, KillOfTheSupervisorEndsTheJob) {
  Job& job = start_shell(in_background(options(2)), kStubborn);
  EXPECT_EQ(job.wait(), 0) << job.err();
  ASSERT_TRUE(appears("ready0") && appears("ready1"));
  const pid_t supervisor = read_pid("supervisor");
  EXPECT_TRUE(contains(job.err(), fmt::format("'kill {}'", supervisor))) << job.err();
  kill(supervisor, SIGTERM);
  EXPECT_TRUE(all_gone());
  const std::string report = read_file(log_dir() / "syncbn-run.log");
  EXPECT_TRUE(contains(report, "ended by SIGTERM")) << report;
}

TEST_F(BackgroundTest, AKilledSupervisorTakesItsWorkersWithIt) {
  // control: without PR_SET_PDEATHSIG in exec_worker they go on.
  Job& job = start_shell(in_background(options(2)), "echo $PPID > $DIR/supervisor; exec sleep 1000");
  EXPECT_EQ(job.wait(), 0) << job.err();
  ASSERT_TRUE(wait_until([&] { return processes().size() == 3; }));
  kill(read_pid("supervisor"), SIGKILL);
  EXPECT_TRUE(all_gone());
}

}  // namespace
}  // namespace syncbn::launch
