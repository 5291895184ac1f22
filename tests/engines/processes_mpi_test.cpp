// SPDX-License-Identifier: Apache-2.0

// Jobs of real processes under the launchers of real MPIs. Each ends the job itself when a process dies or
// exits without finalizing, so of a dead peer these tests can only show that the job ends, at once and with
// the right code.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <sstream>

#include "processes_child.h"

namespace syncbn::processes {
namespace {

struct Mpi {
  const char* name;
  const char* said;  // by the library, of itself
  std::vector<std::string> launcher;
  const char* worker;
  const char* end_of_killed;  // the launcher's, where a rank was killed
};

std::vector<Mpi> mpis() {
  std::vector<Mpi> all;
#ifdef SYNCBN_MPIEXEC
  all.push_back({"OpenMpi",
                 "Open MPI",
                 {SYNCBN_MPIEXEC, "--allow-run-as-root", "--oversubscribe"},
                 SYNCBN_WORKER,
                 "exit 137"});
#endif
#ifdef SYNCBN_MPIEXEC_MPICH
  all.push_back({"Mpich", "MPICH", {SYNCBN_MPIEXEC_MPICH}, SYNCBN_WORKER_MPICH, "exit 9"});
#endif
  return all;
}

// In the names of the tests.
void PrintTo(const Mpi& mpi, std::ostream* out) { *out << mpi.name; }

class MpiJob : public ::testing::TestWithParam<Mpi> {
 protected:
  // `size` processes; the launcher passes the environment on.
  Child& start(const std::string& task, int size, Variables variables = {}) {
    return start(GetParam().launcher, GetParam().worker, task, size, std::move(variables));
  }
  Child& start(std::vector<std::string> command, const char* worker, const std::string& task, int size,
               Variables variables = {}) {
    variables.try_emplace("SYNCBN_TIMEOUT_S", "60");
    variables.emplace("ASAN_OPTIONS", "detect_leaks=0");  // the MPI's own
    // MPICH's launcher leaves the inputs of all ranks but 0 open, and on a busy machine may drop what they
    // wrote before an abort, however long that waits.
    command.insert(command.end(), {"-n", std::to_string(size), "sh", "-c",
                                   "exec \"$0\" \"$1\" </dev/null >>\"$TEST_OUTPUT\" 2>&1", worker, task});
    job_ = std::make_unique<Child>(command, variables);
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
    GTEST_SKIP() << "MPI is built without the thread sanitizer, which then takes its locks for races";
#endif
  }
  void TearDown() override {
    if (!job_) return;
    job_->wait();
    std::istringstream lines(job_->output());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("process ")) {
        EXPECT_TRUE(is_gone(std::stoi(line.substr(8)))) << "still there after its launcher: " << line;
      }
    }
  }

  std::unique_ptr<Child> job_;
};
INSTANTIATE_TEST_SUITE_P(With, MpiJob, ::testing::ValuesIn(mpis()),
                         [](const auto& mpi) { return std::string(mpi.param.name); });

TEST_P(MpiJob, SumsAreRight) {
  for (const int size : {2, 3}) {
    EXPECT_EQ(start("sums", size).wait(), "exit 0") << job_->output();
    EXPECT_EQ(count(fmt::format("of {}, sums are right", size)), size) << job_->output();
    EXPECT_EQ(count(fmt::format("of {}\n", size)), size) << job_->output();  // local ranks
  }
}

// control: with the list agreement's tag for MPI_Comm_create_group, a rank takes Open MPI's messages for
// lists.
TEST_P(MpiJob, TwoGroupsAtOnce) {
  EXPECT_EQ(start("two_groups_at_once", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("two groups are right"), 3) << job_->output();
}

TEST_P(MpiJob, TwoGroupsInTurn) {
  EXPECT_EQ(start("two_groups_in_turn", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("two groups are right"), 3) << job_->output();
}

TEST_P(MpiJob, LeavesAndJoinsAgain) {
  EXPECT_EQ(start("join_again", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("joined three times"), 3) << job_->output();
}

// control: without the check of fork_count() in finalize() the fork's exit code ends the job.
TEST_P(MpiJob, AForkLeavesTheGroupAlone) {
  EXPECT_EQ(start("fork_after_use", 2).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("its fork ended with 5"), 2) << job_->output();
  EXPECT_EQ(count("its fork ended with 6"), 2) << job_->output();
  EXPECT_EQ(count("sums are right after both"), 2) << job_->output();
}

TEST_P(MpiJob, DifferentCallIsAMismatchOnEveryRank) {
  EXPECT_EQ(start("different_counts", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("MismatchError on rank"), 3) << job_->output();
}

// The list of the last of three ranks leaves rank 1 out, which hears of it from rank 0.
TEST_P(MpiJob, DifferentListsAreAMismatchOnEveryRank) {
  EXPECT_EQ(start("different_lists", 3).wait(), "exit 0") << job_->output();
  EXPECT_EQ(count("MismatchError on rank"), 3) << job_->output();
}

// The abandoned sum would keep MPI_Finalize waiting: the job ends by MPI_Abort.
TEST_P(MpiJob, RankThatNeverCallsIsATimeout) {
  const std::string end = start("last_does_not_call", 2, kShortCalls).wait();
  // Open MPI 4.1's mpiexec may crash at its own end, after it has ended an aborted job.
  const bool crashed = end == "signal 11" && count("PMIx_server_finalize") > 0;
  EXPECT_TRUE(end == "exit 1" || crashed) << end << "\n" << job_->output();
  EXPECT_EQ(count("TimeoutError on rank 0"), 1) << job_->output();
}

// control: without the WaitPhrase in mpi_list_agreement.cpp the line names no rank.
TEST_P(MpiJob, AWaitOfTenSecondsIsTold) {
  Child& job = start("last_does_not_connect", 2);
  EXPECT_TRUE(
      job.shows("syncbn: rank 0 of 2 waits for world rank 1 of [0, 1], until ... of 60 s (SYNCBN_TIMEOUT_S)"))
      << job.output();
  job.signal(SIGTERM);
}

TEST_P(MpiJob, FailedRankEndsTheJobWithItsCode) {
  EXPECT_EQ(start("last_exits", 3).wait(), "exit 7") << job_->output();
}

TEST_P(MpiJob, KilledRankEndsTheJob) {
  EXPECT_EQ(start("last_kills_itself", 3).wait(), GetParam().end_of_killed) << job_->output();
}

// The mpiexec of another MPI starts the processes, and each MPI takes its process for a world of one.
// control: without the comparison of sizes, every process says that sums in a world of one are right.
TEST_P(MpiJob, LauncherOfAnotherMpiIsRefused) {
  if (mpis().size() < 2) GTEST_SKIP() << "one MPI only is built";
  for (const Mpi& other : mpis()) {
    if (other.name == std::string(GetParam().name)) continue;
    EXPECT_EQ(start(other.launcher, GetParam().worker, "sums", 2).wait(), "exit 0") << job_->output();
    for (const int rank : {0, 1}) {
      const std::string difference =
          fmt::format("GroupError on rank -1: the launcher says rank {} of 2, {} says rank 0 of 1", rank,
                      GetParam().said);
      EXPECT_EQ(count(difference), 1) << difference << " of " << job_->output();
    }
  }
}

}  // namespace
}  // namespace syncbn::processes
