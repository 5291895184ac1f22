// SPDX-License-Identifier: Apache-2.0

// --max_restarts: a job whose workers fail begins again, whole.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <set>

#include "job.h"
#include "launch/job_connection.h"
#include "programs.h"
#include "rendezvous/store_server.h"

namespace syncbn::launch {
namespace {

class RestartTest : public JobTest {
 protected:
  Strings restarting(int workers, int max_restarts) const {
    Strings all = options(workers);
    all.push_back(fmt::format("--max_restarts={}", max_restarts));
    return all;
  }
  std::string log_of_restart(int rank, int restart) const {
    return read_file(log_dir() / fmt::format("worker_{}.restart_{}.log", rank, restart));
  }
};

const std::string kSay = "echo start $SYNCBN_RESTART of rank $RANK; ";

TEST_F(RestartTest, TheWholeJobBeginsAgainUntilItSucceeds) {
  // control: without the copy of the plan in JobDisplay the lines of the restarts are not shown.
  Job& job = start_shell(restarting(2, 5), kSay +
                                               "[ $SYNCBN_RESTART = 2 ] && exit 0; [ $RANK = 1 ] && exit 3; "
                                               "trap '' TERM; while :; do sleep 1000; done");
  EXPECT_EQ(job.wait(), 0) << job.err();
  const std::string err = job.err();
  for (const char* text : {"rank 1 ... exit code 3", "syncbn-run: restart 1 of 5\n",
                           "syncbn-run: restart 2 of 5\n", "syncbn-run: all workers exited with 0\n",
                           "2 times ... --max_restarts=5", "worker_<rank>.restart_2.log"})
    EXPECT_TRUE(contains(err, text)) << text << " is missing in\n" << err;
  EXPECT_FALSE(contains(err, "restart 3")) << err;
  for (const int rank : {0, 1}) {
    EXPECT_EQ(log(rank), fmt::format("start 0 of rank {}\n", rank)) << "the first start's log is kept";
    for (const int restart : {1, 2}) {
      EXPECT_EQ(log_of_restart(rank, restart), fmt::format("start {} of rank {}\n", restart, rank));
      EXPECT_TRUE(contains(job.out(), fmt::format("[{0}] start {1} of rank {0}\n", rank, restart)))
          << job.out();
    }
  }
}

TEST_F(RestartTest, AsOftenAsAllowedAndWithTheLastFailuresCode) {
  for (const int allowed : {0, 2}) {
    Job& job = start_shell(restarting(2, allowed), "exit $((SYNCBN_RESTART + 10))");
    EXPECT_EQ(job.wait(), 10 + allowed) << job.err();
    EXPECT_EQ(contains(job.err(), fmt::format("restart {} of {}", allowed, allowed)), allowed > 0)
        << job.err();
    EXPECT_EQ(contains(job.err(), "2 times"), allowed > 0) << job.err();
  }
}

TEST_F(RestartTest, WorkersThatNeverJoinAreStartedAgain) {
  Strings limited = restarting(2, 1);
  limited.push_back("--cluster_time_out=1");
  Job& job =
      start_shell(limited, "[ $RANK = 0 ] && " + join_as_rank() + "[ $SYNCBN_RESTART = 1 ] || sleep 1000");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(contains(job.err(), "1 s") && contains(job.err(), "restart 1 of 1")) << job.err();
}

TEST_F(RestartTest, NothingOfTheLastStartIsLeft) {
  // A daemon of the first start, and the secret that it knows.
  Job& job = start(restarting(1, 1), {program("daemon_of_first_start.py")});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_NE(read_file(folder() / "token0"), read_file(folder() / "token1"));
}

TEST_F(RestartTest, NotAfterASignalToTheLauncher) {
  Job& job = start_shell(restarting(2, 3), "touch $DIR/ready$RANK; exec sleep 1000");
  ASSERT_TRUE(appears("ready0") && appears("ready1"));
  job.signal(SIGINT);
  EXPECT_EQ(job.wait(), 128 + SIGINT);
  EXPECT_FALSE(contains(job.err(), "restart")) << job.err();
}

TEST_F(RestartTest, ASignalWhileAFailedJobIsEndedIsTheEnd) {
  // control: without the look at stop_signal() in supervise() the job begins again.
  Job& job =
      start_shell(restarting(2, 3),
                  "trap 'touch $DIR/term; while :; do sleep 1000; done' TERM; [ $RANK = 1 ] && exit 3; "
                  "until [ -e $DIR/term ]; do sleep 0.01; done");
  ASSERT_TRUE(appears("term"));
  job.signal(SIGINT);
  EXPECT_EQ(job.wait(), 128 + SIGINT) << job.err();
  EXPECT_TRUE(contains(job.err(), "ended by SIGINT")) << job.err();
  EXPECT_FALSE(contains(job.err(), "restart 1")) << job.err();
}

TEST_F(RestartTest, TheNextJobForgetsTheRestartsOfTheLast) {
  EXPECT_EQ(start_shell(restarting(1, 2), "exit 4").wait(), 4);
  EXPECT_TRUE(std::filesystem::exists(log_dir() / "worker_0.restart_2.log"));
  EXPECT_EQ(start_shell(restarting(1, 2), "echo well").wait(), 0);
  for (const int restart : {1, 2})
    EXPECT_FALSE(std::filesystem::exists(log_dir() / fmt::format("worker_0.restart_{}.log", restart)));
}

TEST_F(RestartTest, InTheBackground) {
  Strings background = restarting(2, 1);
  std::replace(background.begin(), background.end(), std::string("--join=True"), std::string("--join=False"));
  Job& job = start_shell(background, kSay + "exit $((3 - 3 * SYNCBN_RESTART))");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(all_gone());
  const std::string report = read_file(log_dir() / "syncbn-run.log");
  EXPECT_TRUE(contains(report, "failed first: exit code 3") && contains(report, "restart 1 of 1\n") &&
              contains(report, "all workers exited with 0"))
      << report;
}

// The launcher that serves may be the last to notice that its job is over: who is faster still finds the old
// store. control: without the second try in JobConnection::State::open the connection fails.
TEST(RestartedConnection, WaitsForTheStoreOfItsOwnStart) {
  JobPlan plan;
  plan.token = "secret";
  auto server = std::make_unique<rendezvous::StoreServer>("127.0.0.1", 0, plan.start_token());
  plan.store_port = server->port();
  plan.restart = 1;
  JobConnection connection(plan, Node{}, std::chrono::steady_clock::now() + kPatience);
  pollfd wake{connection.wake_fd(), POLLIN, 0};
  EXPECT_EQ(poll(&wake, 1, 100), 0) << connection.take_updates().failure.value_or("connected");
  server.reset();
  server = std::make_unique<rendezvous::StoreServer>("127.0.0.1", plan.store_port, plan.start_token());
  EXPECT_TRUE(wait_until([&] { return connection.take_updates().connected; }));
}

class RestartOfNodesTest : public RestartTest {
 protected:
  // Ctrl-C to one of the two while it ends its worker of the first start. The worker sends it: SIGKILL
  // follows soon.
  void interrupt_between_starts(int number) {
    const std::string script = fmt::format(
        "[ $NODE = {} ] || {{ until [ -e $DIR/ready ]; do sleep 0.01; done; exit 3; }}; "
        "until [ -s $DIR/launcher ]; do sleep 0.01; done; "
        "trap 'kill -INT $(<$DIR/launcher); while :; do sleep 1000; done' TERM; touch $DIR/ready; "
        "while :; do sleep 0.01; done",
        number);
    Job& first = launcher(0, 3, script);
    const auto serves = [&] { return contains(first.err(), "waiting for the launchers of 1 of 2 workers"); };
    ASSERT_TRUE(wait_until(serves)) << first.err();
    Job& second = launcher(1, 3, script);
    std::ofstream(folder() / "launcher") << (number == 0 ? first : second).pid();
    for (Job* job : {&first, &second}) {
      EXPECT_EQ(job->wait(), 128 + SIGINT) << job->err();
      EXPECT_TRUE(contains(job->err(), "failed first: exit code 3") &&
                  contains(job->err(), "ended by SIGINT"))
          << job->err();
    }
  }

  // Two launchers on this machine, with one worker each. Worker logs lie in folders of their own.
  Job& launcher(int number, int max_restarts, const std::string& script) {
    const std::string name = fmt::format("launcher{}", number);
    const Strings all = {"--worker_num=2",
                         "--local_worker_num=1",
                         fmt::format("--master_port={}", port_ - 1),
                         "--log_dir=" + (folder() / name).string(),
                         "--join=True",
                         "--cluster_time_out=40",
                         fmt::format("--max_restarts={}", max_restarts)};
    return launch(command(all, {"bash", "-c", script}), {{"NODE", std::to_string(number)}}, name);
  }

 private:
  int port_ = free_port();
};

TEST_F(RestartOfNodesTest, BeginAgainTogetherWithTheRanksThatTheyHad) {
  // Slower and slower nodes change places: who is ready first must not get another rank.
  // control: where the node's number is not kept, ranks change places in some of the starts.
  const std::string script =
      "echo $RANK >> $DIR/ranks_of_node_$NODE; "
      // No start ends before both have written.
      "until [ \"$(cat $DIR/ranks_of_node_$((1 - NODE)) 2>/dev/null | wc -l)\" -gt $SYNCBN_RESTART ]; do "
      "sleep "
      "0.02; done; "
      "[ $SYNCBN_RESTART = 3 ] && exit 0; [ $((RANK + SYNCBN_RESTART % 2)) = 1 ] && exit 6; "
      "trap 'sleep 0.2; exit 0' TERM; while :; do sleep 0.02; done";
  Job& first = launcher(0, 3, script);
  Job& second = launcher(1, 3, script);
  EXPECT_EQ(first.wait(), 0) << first.err();
  EXPECT_EQ(second.wait(), 0) << second.err();
  std::set<std::string> both;
  for (const int node : {0, 1}) {
    const Strings ranks = lines_of(read_file(folder() / fmt::format("ranks_of_node_{}", node)));
    ASSERT_EQ(ranks.size(), 4U);
    EXPECT_EQ(std::set(ranks.begin(), ranks.end()).size(), 1U) << fmt::format("{}", fmt::join(ranks, " "));
    both.insert(ranks[0]);
  }
  EXPECT_EQ(both.size(), 2U);
  for (Job* job : {&first, &second})
    EXPECT_TRUE(contains(job->err(), "restart 3 of 3") && contains(job->err(), "failed first: exit code 6"))
        << job->err();
}

// control: where supervise() leaves after a signal whatever waits elsewhere, the other launcher waits for its
// --cluster_time_out.
TEST_F(RestartOfNodesTest, ASignalBetweenTheStartsToTheOneThatServes) { interrupt_between_starts(0); }
TEST_F(RestartOfNodesTest, ASignalBetweenTheStartsToTheOther) { interrupt_between_starts(1); }

TEST_F(RestartOfNodesTest, AgreeOnHowOften) {
  Job& first = launcher(0, 1, "true");
  Job& second = launcher(1, 2, "true");
  EXPECT_EQ(first.wait(), 1) << first.err();
  EXPECT_EQ(second.wait(), 1) << second.err();
  for (Job* job : {&first, &second})
    EXPECT_TRUE(contains(job->err(), "--max_restarts is ") &&
                contains(job->err(), "allowed: the same on every node"))
        << job->err();
}

}  // namespace
}  // namespace syncbn::launch
