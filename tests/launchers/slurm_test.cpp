// SPDX-License-Identifier: Apache-2.0

// The worker program in a real Slurm: steps without PMI, with PMIx and with
// PMI-2, and launchers inside an allocation.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "slurm_cluster.h"

namespace syncbn::launchers {
namespace {

using processes::Child;
using processes::Variables;

std::unique_ptr<SlurmCluster> cluster;  // of all tests

class ClusterOfAllTests : public ::testing::Environment {
  void SetUp() override {
    if (geteuid() == 0) cluster = std::make_unique<SlurmCluster>();
  }
  // control: with a daemon that is not ended, its line appears here.
  void TearDown() override {
    if (!cluster) return;
    EXPECT_EQ(cluster->left_after_stop(), "") << "still there after Slurm's end";
    cluster = nullptr;
  }
};
const ::testing::Environment* const environment = ::testing::AddGlobalTestEnvironment(new ClusterOfAllTests);

class Slurm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cluster) GTEST_SKIP() << "slurmd starts processes for any user and has to be root for it";
  }
  void TearDown() override {
    if (!job_) return;
    std::istringstream lines(job_->output());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("process ")) {
        EXPECT_TRUE(processes::is_gone(std::stoi(line.substr(8)))) << "still there after its step: " << line;
      }
    }
  }

  // The command's end.
  std::string run(const std::vector<std::string>& command, Variables variables = {}) {
    variables.try_emplace("SYNCBN_TIMEOUT_S", "60");
    job_ = cluster->run(command, variables);
    return job_->wait();
  }
  std::string srun(const std::string& mpi, const char* worker, const std::string& task,
                   const Variables& variables = {}) {
    return run({"srun", "--quiet", "-n", "2", "--mpi=" + mpi, worker, task}, variables);
  }
  int count(const std::string& text) const {
    const std::string output = job_->output();
    int found = 0;
    for (auto at = output.find(text); at != std::string::npos; at = output.find(text, at + 1)) ++found;
    return found;
  }
  void expect_sums() const {
    for (const int rank : {0, 1}) {
      const std::string line = fmt::format("rank {}: of 2, sums are right, local rank {} of 2\n", rank, rank);
      EXPECT_EQ(count(line), 1) << line << " of " << job_->output();
    }
  }

  std::unique_ptr<Child> job_;
};

struct Step {
  const char* name;
  const char* mpi;            // of srun
  const char* worker;         // linked with gloo and an MPI
  const char* end_of_failed;  // srun's, where a rank exited with 7
};
class SlurmStep : public Slurm, public ::testing::WithParamInterface<Step> {
 protected:
  std::string srun(const std::string& task, const Variables& variables = {}) {
    return Slurm::srun(GetParam().mpi, GetParam().worker, task, variables);
  }
};
std::vector<Step> steps() {
  std::vector<Step> all = {{"Gloo", "none", SYNCBN_WORKER, "exit 7"}};
#ifdef SYNCBN_MPI
  all.push_back({"OpenMpi", "pmix", SYNCBN_WORKER, "exit 7"});
#endif
#ifdef SYNCBN_WORKER_MPICH
  all.push_back({"Mpich", "pmi2", SYNCBN_WORKER_MPICH, "exit 137"});  // by MPI_Abort Slurm kills the step
#endif
  return all;
}
INSTANTIATE_TEST_SUITE_P(With, SlurmStep, ::testing::ValuesIn(steps()),
                         [](const auto& step) { return std::string(step.param.name); });

TEST_P(SlurmStep, SumsAreRight) {
  EXPECT_EQ(srun("sums"), "exit 0") << job_->output();
  expect_sums();
}

TEST_P(SlurmStep, DifferentCallIsAMismatchOnEveryRank) {
  EXPECT_EQ(srun("different_counts"), "exit 0") << job_->output();
  EXPECT_EQ(count("MismatchError on rank"), 2) << job_->output();
}

TEST_P(SlurmStep, FailedRankEndsTheStep) {
  EXPECT_EQ(srun("last_exits"), GetParam().end_of_failed) << job_->output();
}

TEST_P(SlurmStep, GlooIsThereForTheAsking) {
  EXPECT_EQ(srun("sums", {{"SYNCBN_BACKEND", "gloo"}}), "exit 0") << job_->output();
  expect_sums();
}

TEST_F(Slurm, PortAndPlaceByHand) {
  const std::string port = std::to_string(processes::free_ports(1)[0]);
  EXPECT_EQ(srun("none", SYNCBN_WORKER, "sums", {{"SYNCBN_PORT", port}}), "exit 0") << job_->output();
  expect_sums();
  EXPECT_EQ(srun("none", SYNCBN_WORKER, "sums",
                 {{"SYNCBN_PORT", port}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29500"}}),
            "exit 0")
      << job_->output();
  expect_sums();
}

#ifdef SYNCBN_MPI
// control: without the engine's look at PMIX_RANK, Open MPI ends every process inside MPI_Init, with code 1.
TEST_F(Slurm, OpenMpiNeedsPmix) {
  for (const char* mpi : {"pmi2", "none"}) {
    EXPECT_EQ(srun(mpi, SYNCBN_WORKER, "sums", {{"SYNCBN_BACKEND", "mpi"}}), "exit 0") << job_->output();
    EXPECT_EQ(count("GroupError on rank -1: a Slurm step without PMIX_RANK for Open MPI: start it with srun "
                    "--mpi=pmix, or on engine gloo (SYNCBN_BACKEND=gloo)"),
              2)
        << mpi << ": " << job_->output();
  }
  EXPECT_EQ(srun("pmi2", SYNCBN_WORKER, "sums"), "exit 0")
      << job_->output();  // what the step seems to ask for
  EXPECT_EQ(count("a Slurm step without PMIX_RANK"), 2) << job_->output();
}

TEST_F(Slurm, MpirunInAnAllocation) {
  EXPECT_EQ(run({"salloc", "--quiet", "-n", "2", SYNCBN_MPIEXEC, "-n", "2", SYNCBN_WORKER, "sums"},
                {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}}),
            "exit 0")
      << job_->output();
  expect_sums();
}
#endif

#ifdef SYNCBN_WORKER_MPICH
TEST_F(Slurm, MpichNeedsPmi2) {
  EXPECT_EQ(srun("pmix", SYNCBN_WORKER_MPICH, "sums"), "exit 0") << job_->output();
  EXPECT_EQ(count("a Slurm step without PMI_RANK for MPICH: start it with srun --mpi=pmi2"), 2)
      << job_->output();
}

// Its daemon is a step of one task, whose variables the ranks inherit.
TEST_F(Slurm, MpiexecInAnAllocation) {
  EXPECT_EQ(
      run({"salloc", "--quiet", "-n", "2", SYNCBN_MPIEXEC_MPICH, "-n", "2", SYNCBN_WORKER_MPICH, "sums"}),
      "exit 0")
      << job_->output();
  expect_sums();
}
#endif

// The script is one process with SLURM_PROCID 0; the step that it starts is two.
TEST_F(Slurm, BatchScriptIsAWorldOfOne) {
  const std::string script = (cluster->folder() / "script").string();
  const std::string output = (cluster->folder() / "output").string();
  std::ofstream(script) << "#!/bin/sh\n"
                        << SYNCBN_WORKER << " sums </dev/null\n"
                        << "srun --quiet " << SYNCBN_WORKER << " sums\n";
  EXPECT_EQ(run({"sbatch", "--quiet", "--wait", "-n", "2", "-o", output, script}), "exit 0")
      << job_->output();
  run({"cat", output});
  EXPECT_EQ(count("rank 0: of 1, sums are right, local rank 0 of 1\n"), 1) << job_->output();
  expect_sums();
}

// The job file of examples/slurm.
class SlurmJobFile : public Slurm {
 protected:
  // The job's end; its output is the output of job_.
  std::string submit(const std::vector<std::string>& program) {
    const std::string output = (cluster->folder() / "job.log").string();
    std::vector<std::string> command = {"sbatch", "--quiet", "--wait",       "--nodes=1",
                                        "-o",     output,    SYNCBN_JOB_FILE};
    command.insert(command.end(), program.begin(), program.end());
    std::string end = run(command);
    if (end == "still runs")
      end = job_->wait();  // two imports of PyTorch on a busy machine take most of kPatience
    run({"cat", output});
    return end;
  }
};

TEST_F(SlurmJobFile, SumsAreRight) {
  EXPECT_EQ(submit({SYNCBN_WORKER, "sums"}), "exit 0") << job_->output();
  expect_sums();
}

TEST_F(SlurmJobFile, FailedRankEndsTheJob) {
  EXPECT_EQ(submit({SYNCBN_WORKER, "last_exits"}), "exit 7") << job_->output();
}

TEST_F(SlurmJobFile, PyTorchTrains) {
  EXPECT_EQ(submit({SYNCBN_VENV "/bin/python", SYNCBN_TORCH_EXAMPLE, "--steps=3", "--plot="}), "exit 0")
      << job_->output();
  EXPECT_EQ(count("0: synchronized "), 1) << job_->output();
  EXPECT_EQ(count("1: synchronized "), 0) << job_->output();  // two ranks of one job, not two jobs
}

#ifdef SYNCBN_RUN
TEST_F(Slurm, SyncbnRunInAStep) {
  const std::string logs = (cluster->folder() / "logs").string();
  // Two free ports in a row are not to be had for sure; the launcher's rendezvous is above the master port.
  EXPECT_EQ(run({"srun", "--quiet", "-n", "1", SYNCBN_RUN, "--worker_num=2", "--local_worker_num=2",
                 "--join=True", "--log_dir=" + logs,
                 "--master_port=" + std::to_string(processes::free_ports(1)[0]), SYNCBN_WORKER, "sums"}),
            "exit 0")
      << job_->output();
  expect_sums();
}
#endif

}  // namespace
}  // namespace syncbn::launchers
