// SPDX-License-Identifier: Apache-2.0

// Jobs of real processes that train: launcher, rendezvous, Gloo and layer together.
#include <fmt/core.h>
#include <signal.h>

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
  // The layer's arithmetic alone, which gives these numbers on every processor.
  // Rank 0 has 8 elements a channel of linspace(0, 5), rank 1 has 27; alone rank 1 would have
  // 0.8125, 2.5, 4.1875.
  for (const int rank : {0, 1})
    EXPECT_EQ(log(rank), fmt::format("rank {} of 2\nmean 1.8673137 2.5000000 3.1326863\n", rank));
}

TEST_F(TrainingTest, AWorkerThatFailsBeforeItsCallEndsTheJob) {
  Job& job = start_training("fail");
  const int code = job.wait();  // which waits less than the call's 300 s
  // On a busy machine rank 1 may end too long after it has closed its connections; both are in the report.
  EXPECT_TRUE(code == 9 || code == 4) << code;
  EXPECT_TRUE(contains(job.err(), fmt::format("rank {} ... exit code {}", code == 9 ? 1 : 0, code)))
      << job.err();
  EXPECT_TRUE(contains(job.err(), "rank 1") && contains(job.out(), "[1] no more data\n")) << job.err();
}

// Rank 1 breaks the connections, and ends when its peer has ended with a PeerError.
// control: where the launcher asks the store for nothing, all rounds name rank 0; so they do where a rank
// notes nothing there.
TEST_F(TrainingTest, TheCauseIsNamedThoughItsEffectEndsFirst) {
  std::string report;
  for (int round = 0; round < 10; ++round) {  // a busy machine may let rank 1 end too late for the launcher
    Job& job = start_training("fail_late");
    const int code = job.wait();
    report = job.err();
    if (code == 4) continue;
    EXPECT_EQ(code, 9) << report;
    EXPECT_TRUE(contains(report, "rank 1 ... exit code 9")) << report;
    EXPECT_TRUE(contains(job.out(), "[1] no more data\n")) << job.out();
    EXPECT_TRUE(contains(report, "rank 0 ... exit code 4")) << report;
    return;
  }
  FAIL() << report;
}

TEST_F(TrainingTest, AWorkerThatDiesIsNamed) {
  Job& job = start_training("die");
  EXPECT_EQ(job.wait(), 128 + SIGKILL) << job.out() << job.err();
  EXPECT_TRUE(contains(job.err(), "rank 1 ... signal 9 (SIGKILL)")) << job.err();
}

TEST_F(TrainingTest, EveryWorkerReportsAMismatchedCall) {
  Job& job = start_training("mismatch");
  EXPECT_EQ(job.wait(), 3) << job.out() << job.err();
  for (const int rank : {0, 1}) {
    EXPECT_TRUE(contains(log(rank), "MismatchError: ")) << log(rank);
    EXPECT_TRUE(contains(log(rank), "0.001")) << log(rank);
  }
  EXPECT_TRUE(contains(job.err(), "rank ... exit code 3")) << job.err();
}

TEST_F(TrainingTest, ClusterTimeOutNamesTheRankThatIsMissing) {
  Job& job = start_training("absent", {"--cluster_time_out=5"});  // rank 0 must be there by then
  EXPECT_EQ(job.wait(), 124) << job.out() << job.err();
  EXPECT_TRUE(contains(job.err(), "1 of 2 workers ... 5 s ... --cluster_time_out ... rank 1")) << job.err();
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
