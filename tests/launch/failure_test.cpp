// SPDX-License-Identifier: Apache-2.0

// A job whose worker fails: it ends within a second, whole, and the report tells why.
#include <fmt/core.h>
#include <signal.h>

#include <chrono>
#include <iostream>

#include "job.h"
#include "programs.h"

namespace syncbn::launch {
namespace {

using FailureTest = JobTest;
using std::chrono::steady_clock;

// Waits for a file in $DIR.
const std::string kWait = "await() { until [ -e $DIR/$1 ]; do sleep 0.01; done; }; ";
// A process that only SIGKILL ends.
const std::string kStubborn = "trap '' TERM INT HUP; while :; do sleep 1000; done";

TEST_F(FailureTest, TheReportHasRankCodeEndOfTheLogAndPlace) {
  Strings hidden = options(3);
  hidden.push_back("--tail_worker_log=0");
  Job& job = start_shell(
      hidden, "if [ $RANK = 1 ]; then seq -f 'line %g' 1 30; echo reason >&2; exit 3; fi; sleep 1000");
  EXPECT_EQ(job.wait(), 3);
  const std::string err = job.err();
  EXPECT_TRUE(contains(err, "rank 1 ... exit code 3")) << err;
  EXPECT_TRUE(contains(err, (log_dir() / "worker_1.log").string())) << err;
  EXPECT_TRUE(contains(err, (log_dir() / "worker_<rank>.log").string())) << err;
  EXPECT_TRUE(contains(err, "  | line 12\n") && contains(err, "  | line 30\n  | reason\n")) << err;
  EXPECT_FALSE(contains(err, "  | line 11\n")) << "20 lines are enough\n" << err;
  EXPECT_FALSE(contains(err, "rank 0") || contains(err, "rank 2")) << "they were only ended\n" << err;
}

TEST_F(FailureTest, WhatTheConsoleHasShownIsNotShownAgain) {
  // control: with an empty list of shown ranks in Supervisor::end_processes both errors are there twice.
  for (const std::string shown : {"-1", "0", "1"}) {
    SCOPED_TRACE("--tail_worker_log=" + shown);
    Strings all = options(2);
    all.push_back("--tail_worker_log=" + shown);
    std::filesystem::remove(folder() / "go");
    Job& job =
        start_shell(all,
                    "echo reason $RANK; [ $RANK = 1 ] && touch $DIR/go; until [ -e $DIR/go ]; do sleep "
                    "0.01; done; [ $RANK = 0 ] && sleep 0.08; exit 3");
    EXPECT_EQ(job.wait(), 3);
    for (const std::string rank : {"0", "1"}) {
      const bool on_console = shown == "-1" || shown == rank;
      EXPECT_EQ(contains(job.out(), fmt::format("[{0}] reason {0}\n", rank)), on_console) << job.out();
      EXPECT_EQ(contains(job.err(), fmt::format("  | reason {}\n", rank)), !on_console) << job.err();
    }
  }
}

TEST_F(FailureTest, TheCauseIsNamedThoughItsInterpreterTakesSecondsToEnd) {
  // control: without ends_with_peer_error() or ends_with_exception() rank 0 is called the first to fail.
  for (const std::string error : {"syncbn.PeerError: group 'world': rank 1 failed",
                                  "terminate called after throwing an instance of 'syncbn::PeerError'",
                                  "RuntimeError: [pair.cc:534] Connection closed by peer [127.0.0.1]:4711"}) {
    Job& job = start_shell(
        options(3),
        "if [ $RANK = 1 ]; then echo 'Traceback (most recent call last):'; sleep 2; exit 5; fi; echo \"" +
            error + "\"; exit 4");
    EXPECT_EQ(job.wait(), 5);
    EXPECT_TRUE(contains(job.err(), "rank 1 failed first: exit code 5") &&
                contains(job.err(), "rank 0 failed after it: exit code 4"))
        << job.err();
  }
}

TEST_F(FailureTest, APeerErrorWithoutARunningPeerEndsTheJobAtOnce) {
  // control: with peers_run = true the launcher waits ten seconds for a cause.
  const auto begin = steady_clock::now();
  Job& job =
      start_shell(options(2), "[ $RANK = 1 ] && exit 0; echo syncbn.PeerError: rank 1 has left; exit 4");
  EXPECT_EQ(job.wait(), 4);
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(8));
  EXPECT_TRUE(contains(job.err(), "rank 0 failed first: exit code 4")) << job.err();
}

TEST_F(FailureTest, APeerErrorDoesNotWaitForAPeerThatIsNotEnding) {
  // control: with peer_may_be_ending() = true the launcher waits ten seconds for the peer.
  const auto begin = steady_clock::now();
  Job& job = start_shell(options(2),
                         "[ $RANK = 1 ] && exec sleep 1000; echo syncbn.PeerError: rank 1 gave up; exit 4");
  EXPECT_EQ(job.wait(), 4);
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(8));
  EXPECT_TRUE(contains(job.err(), "rank 0 failed first: exit code 4")) << job.err();
}

TEST_F(FailureTest, ASignalIsNamedAndBecomesTheExitCode) {
  for (const auto& [number, name] : std::map<int, std::string>{{SIGSEGV, "SIGSEGV"}, {SIGKILL, "SIGKILL"}}) {
    Job& job = start_shell(options(2), fmt::format("[ $RANK = 0 ] && kill -{} $$; sleep 1000", number));
    EXPECT_EQ(job.wait(), 128 + number);
    EXPECT_TRUE(contains(job.err(), fmt::format("rank 0 ... signal {} ({})", number, name))) << job.err();
    EXPECT_TRUE(contains(job.err(), "worker_0.log ... empty")) << job.err();
  }
}

TEST_F(FailureTest, WorkersThatIgnoreSigtermAreEnded) {
  // control: without SIGKILL in Supervisor::end_processes the job goes on for ever; without SIGTERM the other
  // test below fails.
  Job& job = start_shell(
      options(3),
      kWait + "echo $$ > $DIR/pid$RANK; if [ $RANK = 2 ]; then await go; exit 5; fi; " + kStubborn);
  for (const char* name : {"pid0", "pid1", "pid2"}) ASSERT_GT(read_pid(name), 0);
  const auto begin = steady_clock::now();
  write("go", "");
  EXPECT_EQ(job.wait(), 5) << job.err();
  std::cout << fmt::format("the launcher had ended {} ms after the order to fail\n",
                           (steady_clock::now() - begin) / std::chrono::milliseconds(1));
  EXPECT_TRUE(processes().empty()) << "nothing is left when the launcher returns";
}

TEST_F(FailureTest, TheOthersGetSigtermFirst) {
  Job& job = start_shell(
      options(2), kWait +
                      "if [ $RANK = 0 ]; then await ready; exit 5; fi; "
                      "trap 'echo tidied up; exit 0' TERM; touch $DIR/ready; while :; do sleep 0.01; done");
  EXPECT_EQ(job.wait(), 5);
  EXPECT_TRUE(contains(log(1), "tidied up\n")) << log(1);
}

TEST_F(FailureTest, TheOthersMaySayWhyTheyFailToo) {
  // All ranks find the same fault at about the same time; none of them is cut off.
  // control: with kOwnEndTime = 0 the slower one is ended before it speaks.
  Job& job = start_shell(
      options(3),
      kWait + "await go; [ $RANK = 1 ] || sleep 0.08; echo fault seen by $RANK; exit $((RANK + 10))");
  write("go", "");
  EXPECT_EQ(job.wait(), 11);
  for (const int rank : {0, 1, 2}) EXPECT_EQ(log(rank), fmt::format("fault seen by {}\n", rank));
  for (const char* text : {"rank 1 ... exit code 11 ... rank 0 ... exit code 10",
                           "rank 1 ... exit code 11 ... rank 2 ... exit code 12"})
    EXPECT_TRUE(contains(job.err(), text)) << job.err();
}

TEST_F(FailureTest, TheFirstOneIsFirstEvenIfTheLauncherWasAsleep) {
  // Both workers end while the supervisor is stopped; waitpid() alone would then tell of rank 0 first.
  // control: with failures recorded in the order of waitpid() in NodeWorkers::reap, rank 0 is called the
  // first.
  Job& job = start_shell(
      options(2),
      kWait + "echo $PPID > $DIR/supervisor; echo $$ > $DIR/pid$RANK; await go$RANK; exit $((RANK + 10))");
  const pid_t supervisor = read_pid("supervisor");
  const pid_t first = read_pid("pid1");
  const pid_t second = read_pid("pid0");
  ASSERT_TRUE(supervisor > 0 && first > 0 && second > 0);
  kill(supervisor, SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return process_state(supervisor) == 'T'; }));
  write("go1", "");
  ASSERT_TRUE(wait_until([&] { return process_state(first) == 'Z'; }));
  write("go0", "");
  ASSERT_TRUE(wait_until([&] { return process_state(second) == 'Z'; }));
  kill(supervisor, SIGCONT);
  EXPECT_EQ(job.wait(), 11);
  EXPECT_TRUE(contains(job.err(), "rank 1 ... exit code 11 ... rank 0 ... exit code 10")) << job.err();
}

TEST_F(FailureTest, ProcessTreesAndDaemonsAreEnded) {
  // control: without become_subreaper() in supervise() the daemons outlive the job.
  Job& job = start(options(2), {program("process_tree.py"), "tree"});
  const pid_t daemon0 = read_pid("daemon0");
  const pid_t daemon1 = read_pid("daemon1");
  ASSERT_TRUE(daemon0 > 0 && daemon1 > 0);
  // Front, supervisor, and 4 of each worker: itself, daemon, child, grandchild.
  ASSERT_TRUE(wait_until([&] { return processes().size() == 10; })) << processes().size();
  write("go", "");
  EXPECT_EQ(job.wait(), 4) << job.err();
  EXPECT_EQ(process_state(daemon0), 0);
  EXPECT_EQ(process_state(daemon1), 0);
  EXPECT_TRUE(processes().empty());
}

TEST_F(FailureTest, WhatWorkersLeaveBehindIsEndedAndTold) {
  Job& job = start(options(2), {program("process_tree.py"), "leave"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(contains(job.err(), "processes")) << job.err();
  EXPECT_TRUE(contains(job.err(), std::to_string(read_pid("daemon1")))) << job.err();
  EXPECT_TRUE(processes().empty());
}

TEST_F(FailureTest, AProgramThatCannotRunIsAFailureWithAReason) {
  const auto script = write("task", "#!/no/such/interpreter\n");
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  Job& job = start(options(2), {script.string()});
  EXPECT_EQ(job.wait(), 127);
  EXPECT_TRUE(contains(job.out(), fmt::format("syncbn-run: ... {} ... No such file", script.string())))
      << job.out();
}

TEST_F(FailureTest, ClusterTimeOutNamesWhoNeverJoined) {
  Strings limited = options(4);
  limited.push_back("--cluster_time_out=1");
  Job& job = start_shell(limited, "[ $RANK = 1 ] && exit 0; [ $RANK = 3 ] && " + join_as_rank() + kStubborn);
  EXPECT_EQ(job.wait(), 124);
  EXPECT_TRUE(contains(job.err(), "2 of 4 workers ... 1 s ... --cluster_time_out ... ranks 0, 2"))
      << job.err();
}

TEST_F(FailureTest, AWorkerThatGivesUpWaitingDoesNotHideWhoIsMissing) {
  // control: with kJoinMargin = 0 rank 0 is called the first to fail.
  Strings limited = options(2);
  limited.push_back("--cluster_time_out=4");
  Job& job = start_shell(limited, "[ $RANK = 1 ] && sleep 1000; " + join_as_rank() + "sleep 3.8; exit 5");
  EXPECT_EQ(job.wait(), 124);
  EXPECT_TRUE(
      contains(job.err(),
               "1 of 2 workers had not joined within 4 s (--cluster_time_out) of the first: rank 1;") &&
      contains(job.err(), "rank 0 failed after it: exit code 5"))
      << job.err();
}

TEST_F(FailureTest, ClusterTimeOutBeginsWithTheFirstThatJoins) {
  // control: with join_by_ from the start on, both jobs are ended after a second.
  Strings limited = options(2);
  limited.push_back("--cluster_time_out=1");
  Job& never = start_shell(limited, "sleep 1.5");
  EXPECT_EQ(never.wait(), 0) << never.err();
  Job& late = start_shell(limited, "sleep 1.3; " + join_as_rank());
  EXPECT_EQ(late.wait(), 0) << late.err();
}

TEST_F(FailureTest, ANegativeClusterTimeOutIsNoLimit) {
  Strings unlimited = options(2);
  unlimited.push_back("--cluster_time_out=-1");
  Job& job = start_shell(unlimited, "sleep 1.2");
  EXPECT_EQ(job.wait(), 0) << job.err();
  Strings alone = options(1);
  alone.push_back("--cluster_time_out=1");
  Job& single = start_shell(alone, "sleep 1.2");
  EXPECT_EQ(single.wait(), 0) << "a single worker has nobody to join\n" << single.err();
}

}  // namespace
}  // namespace syncbn::launch
