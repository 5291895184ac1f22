// Jobs of real processes under Open MPI's mpirun. It ends the job itself when a process dies or exits without
// finalizing, so of a dead peer these tests can only show that the job ends, at once and with the right code.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <sstream>

#include "processes_child.h"

namespace syncbn::processes {
namespace {

class MpiJob : public testing::Test {
 protected:
  // `size` processes; mpirun passes the environment on.
  Child& start(const std::string& task, int size, Variables variables = {}) {
    variables.try_emplace("SYNCBN_TIMEOUT_S", "60");
    variables.emplace("ASAN_OPTIONS", "detect_leaks=0");  // Open MPI's own
    job_ = std::make_unique<Child>(
        std::vector<std::string>{SYNCBN_MPIRUN, "--allow-run-as-root", "--oversubscribe", "-n",
                                 std::to_string(size), SYNCBN_WORKER, task},
        variables);
    job_->close_input();
    return *job_;
  }
  int count(const std::string& text) const {
    const std::string output = job_->output();
    int found = 0;
    for (auto at = output.find(text); at != std::string::npos; at = output.find(text, at + 1)) ++found;
    return found;
  }
  void SetUp() override {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "Open MPI is built without the thread sanitizer, which then takes its locks for races";
#endif
  }
  void TearDown() override {
    if (!job_) return;
    job_->wait();
    std::istringstream lines(job_->output());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("process ")) {
        EXPECT_TRUE(is_gone(std::stoi(line.substr(8)))) << "still there after mpirun: " << line;
      }
    }
  }

  std::unique_ptr<Child> job_;
};

class MpiJobOfSize : public MpiJob, public testing::WithParamInterface<int> {};

TEST_P(MpiJobOfSize, SumsAreRight) {
  EXPECT_EQ(start("sums", GetParam()).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count(fmt::format("of {}, sums are right", GetParam())), GetParam()) << job_->output();
  EXPECT_EQ(count(fmt::format("of {}\n", GetParam())), GetParam()) << job_->output();  // local ranks
}
INSTANTIATE_TEST_SUITE_P(Ranks, MpiJobOfSize, testing::Values(2, 3));

// control: with the handshake's own tag for MPI_Comm_create_group, a rank takes Open MPI's messages for
// lists.
TEST_F(MpiJob, TwoGroupsAtOnce) {
  EXPECT_EQ(start("two_groups_at_once", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("two groups are right"), 3) << job_->output();
}

TEST_F(MpiJob, TwoGroupsInTurn) {
  EXPECT_EQ(start("two_groups_in_turn", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("two groups are right"), 3) << job_->output();
}

TEST_F(MpiJob, LeavesAndJoinsAgain) {
  EXPECT_EQ(start("join_again", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("joined three times"), 3) << job_->output();
}

TEST_F(MpiJob, DifferentCallIsAMismatchOnEveryRank) {
  EXPECT_EQ(start("different_counts", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("MismatchError on rank"), 3) << job_->output();
}

// The list of the last of three ranks leaves rank 1 out, which hears of it from rank 0.
TEST_F(MpiJob, DifferentListsAreAMismatchOnEveryRank) {
  EXPECT_EQ(start("different_lists", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("MismatchError on rank"), 3) << job_->output();
}

// The abandoned sum would keep MPI_Finalize waiting: the job ends by MPI_Abort.
TEST_F(MpiJob, RankThatNeverCallsIsATimeout) {
  EXPECT_EQ(start("last_does_not_call", 2, {{"SYNCBN_TIMEOUT_S", "2"}}).wait(), "exit 1") << job_->output();
  EXPECT_EQ(count("TimeoutError on rank 0"), 1) << job_->output();
}

TEST_F(MpiJob, FailedRankEndsTheJobWithItsCode) {
  EXPECT_EQ(start("last_exits", 3).wait(), "exit 7") << job_->output();
}

TEST_F(MpiJob, KilledRankEndsTheJob) {
  EXPECT_EQ(start("last_kills_itself", 3).wait(), "exit 137") << job_->output();
}

// A launcher whose size is not MPI's, as the mpiexec of another MPI shows itself: every process is a world of
// one.
TEST_F(MpiJob, SizesOfLauncherAndMpiMustBeEqual) {
  job_ = std::make_unique<Child>(std::vector<std::string>{SYNCBN_WORKER, "sums"},
                                 Variables{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}});
  job_->close_input();
  EXPECT_EQ(job_->wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("GroupError"), 1) << job_->output();
  EXPECT_EQ(count("rank 1 of 2, MPI says rank 0 of 1"), 1) << job_->output();
}

}  // namespace
}  // namespace syncbn::processes
