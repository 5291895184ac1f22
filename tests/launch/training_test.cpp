// Jobs of real processes that train: launcher, rendezvous, Gloo and layer together.
#include <fmt/format.h>
#include <signal.h>

#include <chrono>

#include "terminal.h"

namespace syncbn::launch {
namespace {

class TrainingTest : public JobTest {
 protected:
  Job& start_training(const std::string& mode, const Strings& more = {}) {
    Strings all = options(2);
    all.insert(all.end(), more.begin(), more.end());
    return start(all, {SYNCBN_TRAINING_WORKER, mode});
  }
};

TEST_F(TrainingTest, TwoProcessesShareTheirStatistics) {
  Job& job = start_training("train");
  ASSERT_EQ(job.wait(), 0) << job.out() << job.err();
  // Rank 0 has 8 elements a channel of linspace(0, 5), rank 1 has 27; alone rank 1 would have
  // 0.8125, 2.5, 4.1875.
  for (const int rank : {0, 1})
    EXPECT_EQ(log(rank), fmt::format("rank {} of 2\nmean 1.8673137 2.5000000 3.1326863\n", rank));
}

TEST_F(TrainingTest, AWorkerThatFailsBeforeItsCallEndsTheJob) {
  Job& job = start_training("fail");
  const auto begin = std::chrono::steady_clock::now();
  const int code = job.wait();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(15))
      << "nobody waits for a deadline";
  // Rank 1 closes its connections before it ends, so its peer may be the first to have ended. Both are in the
  // report.
  EXPECT_TRUE(code == 9 || code == 4) << code;
  EXPECT_TRUE(contains(job.err(), fmt::format("rank {} failed first: exit code {}", code == 9 ? 1 : 0, code)))
      << job.err();
  EXPECT_TRUE(contains(job.err(), "rank 1 failed") && contains(job.err(), "  | no more data\n")) << job.err();
}

TEST_F(TrainingTest, AWorkerThatDiesIsNamed) {
  Job& job = start_training("die");
  EXPECT_EQ(job.wait(), 128 + SIGKILL) << job.out() << job.err();
  EXPECT_TRUE(contains(job.err(), "rank 1 failed first: killed by signal 9 (SIGKILL)")) << job.err();
}

TEST_F(TrainingTest, EveryWorkerReportsAMismatchedCall) {
  Job& job = start_training("mismatch");
  EXPECT_EQ(job.wait(), 3) << job.out() << job.err();
  for (const int rank : {0, 1}) {
    EXPECT_TRUE(contains(log(rank), "MismatchError: ")) << log(rank);
    EXPECT_TRUE(contains(log(rank), "0.001")) << log(rank);
  }
  EXPECT_TRUE(contains(job.err(), "failed first: exit code 3")) << job.err();
}

TEST_F(TrainingTest, ClusterTimeOutNamesTheRankThatIsMissing) {
  Job& job = start_training("absent", {"--cluster_time_out=2"});
  EXPECT_EQ(job.wait(), 124) << job.out() << job.err();
  EXPECT_TRUE(contains(job.err(), "1 of 2 workers had not joined within 2 s (--cluster_time_out): rank 1;"))
      << job.err();
}

TEST_F(TrainingTest, WorkersThatHaveJoinedAreCounted) {
  // control: in "absent" one never does.
  for (const auto& [mode, joined] : std::map<std::string, int>{{"stay", 2}, {"absent", 1}}) {
    TerminalJob job(command(options(2), {SYNCBN_TRAINING_WORKER, mode}), marked({{"TERM", "xterm"}}), 120);
    EXPECT_TRUE(
        job.bottom_becomes(fmt::format("syncbn-run: 2 workers: 2 up, {} joined, 2 running, 0 done", joined)))
        << job.bytes();
    job.type("\x03");
    EXPECT_EQ(job.wait(), 130) << job.bytes();
  }
  Job& plain = start_training("stay");
  EXPECT_TRUE(wait_until([&] { return contains(plain.err(), "syncbn-run: all 2 workers have joined\n"); }))
      << plain.err();
  plain.signal(SIGTERM);
  EXPECT_EQ(plain.wait(), 128 + SIGTERM);
}

TEST_F(TrainingTest, TheJobGoesOnInTheBackground) {
  Strings background = options(2);
  background.back() = "--join=False";
  Job& job = start(background, {SYNCBN_TRAINING_WORKER, "train"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(all_gone());
  for (const int rank : {0, 1})
    EXPECT_TRUE(contains(log(rank), "mean 1.8673137 2.5000000 3.1326863\n")) << log(rank);
}

}  // namespace
}  // namespace syncbn::launch
