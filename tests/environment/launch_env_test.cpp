// SPDX-License-Identifier: Apache-2.0

// Which launcher's variables count, what they say, and what is refused
#include "environment/launch_env.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "../ranks.h"
#include "environment.h"

namespace syncbn::environment {
namespace {

using testing::expect_error;
using testing::outcome;
using testing::Variables;

Getenv from(const Variables& variables) {
  return [variables](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}
LaunchEnv read(const Variables& variables, Backend asked = Backend::automatic) {
  return read_launch_env(from(variables), asked);
}
std::string refusal(const Variables& variables, Backend asked = Backend::automatic) {
  return outcome([&] { read(variables, asked); });
}
// Variables that are refused, and the facts of the error.
struct Refusal {
  Variables variables;
  std::vector<std::string> facts;
};
Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}
Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

const Variables kTorchrun = {{"RANK", "2"},        {"WORLD_SIZE", "4"},
                             {"LOCAL_RANK", "0"},  {"LOCAL_WORLD_SIZE", "2"},
                             {"MASTER_ADDR", "h"}, {"MASTER_PORT", "29500"}};
const Variables kMsrun = {
    {"MS_ROLE", "MS_WORKER"},  {"MS_WORKER_NUM", "4"},     {"MS_SCHED_HOST", "10.0.0.1"},
    {"MS_SCHED_PORT", "8118"}, {"RANK_ID", "3"},           {"RANK_SIZE", "4"},
    {"DEVICE_ID", "1"},        {"MS_TOPO_TIMEOUT", "100"}, {"MS_NODE_ID", "3"}};
const Variables kMpirun = {{"OMPI_COMM_WORLD_RANK", "1"},
                           {"OMPI_COMM_WORLD_SIZE", "3"},
                           {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                           {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
const Variables kMpiexec = {
    {"PMI_RANK", "1"}, {"PMI_SIZE", "3"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}};
const Variables kSrun = {{"SLURM_JOB_ID", "42"},
                         {"SLURM_STEP_ID", "3"},
                         {"SLURM_STEP_NODELIST", "n[01-03,7],m2"},
                         {"SLURM_STEP_NUM_TASKS", "9"},
                         {"SLURM_STEP_TASKS_PER_NODE", "2(x4),1"},
                         {"SLURM_NODEID", "1"},
                         {"SLURM_PROCID", "3"},
                         {"SLURM_LOCALID", "1"}};
const Variables kDryRun = {{"MS_SIMULATION_LEVEL", "1"}, {"RANK_ID", "5"}, {"RANK_SIZE", "64"}};
const Variables kSyncbnRun = with(kTorchrun, {{"SYNCBN_STORE", "[::1]:4000"},
                                              {"RANK_ID", "2"},
                                              {"RANK_SIZE", "4"},
                                              {"DEVICE_ID", "0"},
                                              {"SYNCBN_TOKEN", "secret"}});

TEST(LaunchEnv, NoLauncher) {
  const LaunchEnv env = read({{"MASTER_ADDR", "h"}, {"LOCAL_RANK", "x"}});  // left over in a container
  EXPECT_EQ(env.launcher, "");
  EXPECT_EQ(env.backend, std::nullopt);
  EXPECT_EQ(env.world.size, 1);
}

TEST(LaunchEnv, Torchrun) {
  const LaunchEnv env = read(kTorchrun);
  EXPECT_EQ(env.launcher, "torchrun");
  EXPECT_EQ(env.backend, Backend::gloo);
  EXPECT_EQ(env.world.rank, 2);
  EXPECT_EQ(env.world.size, 4);
  EXPECT_EQ(env.world.host, "h");
  EXPECT_EQ(env.world.port, 29501);
  EXPECT_EQ(env.world.serve, Serve::no);
  EXPECT_EQ(env.local_rank, 0);
  EXPECT_EQ(env.local_size, 2);
  EXPECT_EQ(read(with(kTorchrun, {{"RANK", "0"}})).world.serve, Serve::yes);
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_PORT", "77"}})).world.port, 77);
  EXPECT_EQ(read(with(without(kTorchrun, "MASTER_PORT"), {{"SYNCBN_PORT", "77"}})).world.port, 77);
}

TEST(LaunchEnv, TorchrunOfOneNeedsNoRendezvous) {
  const LaunchEnv env = read({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  EXPECT_EQ(env.world.size, 1);
  EXPECT_EQ(env.backend, std::nullopt);
}

TEST(LaunchEnv, Msrun) {
  const LaunchEnv env = read(kMsrun);
  EXPECT_EQ(env.launcher, "msrun");
  EXPECT_EQ(env.backend, Backend::gloo);
  EXPECT_EQ(env.world.rank, 3);
  EXPECT_EQ(env.world.size, 4);
  EXPECT_EQ(env.world.host, "10.0.0.1");
  EXPECT_EQ(env.world.port, 8119);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.rendezvous_timeout, std::chrono::seconds(100));
  EXPECT_FALSE(env.scheduler);
  EXPECT_FALSE(read(without(kMsrun, "RANK_ID")).world.rank.has_value());
  EXPECT_EQ(read(without(kMsrun, "RANK_ID")).world.serve, Serve::if_port_is_free);
  const LaunchEnv first = read(with(kMsrun, {{"RANK_ID", "0"}, {"MS_NODE_ID", "0"}}));
  EXPECT_EQ(first.world.rank, 0);
  EXPECT_EQ(first.world.serve, Serve::yes);
  const Variables unranked = without(kMsrun, "MS_NODE_ID");
  EXPECT_FALSE(read(with(unranked, {{"RANK_ID", "0"}})).world.rank.has_value());  // the scheduler's
  EXPECT_EQ(read(unranked).world.rank, 3);  // found by MindSpore's init()
  EXPECT_EQ(read(unranked).world.serve, Serve::if_port_is_free);
  EXPECT_TRUE(read(with(kMsrun, {{"MS_ROLE", "MS_SCHED"}, {"RANK_ID", "0"}})).scheduler);
  EXPECT_GT(read(with(kMsrun, {{"MS_TOPO_TIMEOUT", "-1"}})).rendezvous_timeout, std::chrono::hours(1000));
}

TEST(LaunchEnv, Mpirun) {
  const LaunchEnv env = read(kMpirun);
  EXPECT_EQ(env.launcher, "mpirun");
  EXPECT_EQ(env.backend, Backend::mpi);
  EXPECT_EQ(env.world.rank, 1);
  EXPECT_EQ(env.world.size, 3);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.local_size, 2);
}

TEST(LaunchEnv, Mpiexec) {
  const LaunchEnv env = read(kMpiexec);
  EXPECT_EQ(env.launcher, "mpiexec");
  EXPECT_EQ(env.backend, Backend::mpi);
  EXPECT_EQ(env.world.rank, 1);
  EXPECT_EQ(env.world.size, 3);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.local_size, 2);
  EXPECT_EQ(read({{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}}).launcher, "mpiexec");
}

TEST(LaunchEnv, Srun) {
  const LaunchEnv env = read(kSrun);
  EXPECT_EQ(env.launcher, "srun");
  EXPECT_EQ(env.backend, Backend::gloo);
  EXPECT_EQ(env.world.rank, 3);
  EXPECT_EQ(env.world.size, 9);
  EXPECT_EQ(env.world.host, "n01");
  EXPECT_EQ(env.world.port, 10000 + 42 * 64 + 3);
  EXPECT_EQ(env.world.serve, Serve::no);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.local_size, 2);
  EXPECT_EQ(read(with(kSrun, {{"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}})).world.serve, Serve::yes);
  EXPECT_EQ(read(with(kSrun, {{"SYNCBN_PORT", "77"}})).world.port, 77);
  EXPECT_EQ(read(with(without(kSrun, "SLURM_STEP_NUM_TASKS"), {{"SLURM_NTASKS", "4"}})).world.size, 4);
}

TEST(LaunchEnv, SrunsPort) {
  const auto port = [](const char* job, const char* step) {
    return read(with(kSrun, {{"SLURM_JOB_ID", job}, {"SLURM_STEP_ID", step}})).world.port;
  };
  EXPECT_NE(port("42", "3"), port("42", "4"));
  EXPECT_NE(port("42", "3"), port("43", "3"));
  for (const char* job : {"1", "312", "313", "4294967295"}) {  // 4294967290: the interactive step
    EXPECT_GE(port(job, "4294967290"), 10000) << job;
    EXPECT_LT(port(job, "4294967290"), 30000) << job;
  }
}

TEST(LaunchEnv, SrunWithAPlaceByHand) {
  const Variables both = with(kSrun, {{"MASTER_ADDR", "h"}, {"MASTER_PORT", "29500"}});
  EXPECT_EQ(read(both).world.host, "h");
  EXPECT_EQ(read(both).world.port, 29501);
  EXPECT_EQ(read(with(both, {{"SYNCBN_PORT", "77"}})).world.host, "h");
  EXPECT_EQ(read(with(both, {{"SYNCBN_PORT", "77"}})).world.port, 77);
  EXPECT_EQ(read(without(both, "MASTER_PORT")).world.host, "n01");
  EXPECT_EQ(read(without(both, "MASTER_ADDR")).world.port, read(kSrun).world.port);
}

TEST(LaunchEnv, SrunWithPmiMeansMpi) {
  for (const char* pmi : {"PMI_RANK", "PMIX_RANK"}) {
    EXPECT_EQ(read(with(kSrun, {{pmi, "3"}})).backend, Backend::mpi) << pmi;
    EXPECT_EQ(read(with(kSrun, {{pmi, "3"}, {"SYNCBN_BACKEND", "gloo"}})).world.host, "n01") << pmi;
  }
}

// A batch script is one process, although it has SLURM_PROCID and the number of tasks that it may start.
TEST(LaunchEnv, BatchScriptIsAlone) {
  const LaunchEnv env =
      read({{"SLURM_JOB_ID", "42"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}, {"SLURM_NTASKS", "8"}});
  EXPECT_EQ(env.launcher, "");
  EXPECT_EQ(env.world.size, 1);
}

TEST(LaunchEnv, DryRun) {
  const LaunchEnv env = read(kDryRun);
  EXPECT_EQ(env.launcher, "the dry run");
  EXPECT_EQ(env.backend, Backend::simulation);
  EXPECT_EQ(env.world.rank, 5);
  EXPECT_EQ(env.world.size, 64);
  EXPECT_EQ(read(kDryRun, Backend::gloo).backend, Backend::simulation);  // one process could wait for ever
  EXPECT_EQ(read({{"MS_SIMULATION_LEVEL", "1"}}).world.size, 1);
  EXPECT_EQ(read(with(kTorchrun, {{"MS_SIMULATION_LEVEL", "-1"}, {"RANK_ID", "9"}})).launcher, "torchrun");
  expect_error<GroupError>(refusal(without(kDryRun, "RANK_SIZE")),
                           {"dry run", "RANK_SIZE", "MS_SIMULATION_LEVEL='1'", "RANK_ID='5'"});
  for (const char* level : {"4", "x", ""}) {
    expect_error<GroupError>(refusal(with(kDryRun, {{"MS_SIMULATION_LEVEL", level}})),
                             {"MS_SIMULATION_LEVEL", fmt::format("'{}'", level), "0", "3"});
  }
}

// Any launcher's variables say who a rank is, so that any run can be tried dry; nobody needs to meet.
TEST(LaunchEnv, SimulationByHand) {
  const Variables by_hand = {{"RANK", "2"}, {"WORLD_SIZE", "8"}, {"SYNCBN_BACKEND", "simulation"}};
  EXPECT_EQ(read(by_hand).backend, Backend::simulation);
  EXPECT_EQ(read(by_hand).world.rank, 2);
  EXPECT_EQ(read(with(kMpirun, {{"SYNCBN_BACKEND", "simulation"}})).backend, Backend::simulation);
}

TEST(LaunchEnv, SyncbnRun) {
  const LaunchEnv env = read(kSyncbnRun);
  EXPECT_EQ(env.launcher, "syncbn-run");
  EXPECT_EQ(env.backend, Backend::gloo);
  EXPECT_EQ(env.world.rank, 2);
  EXPECT_EQ(env.world.size, 4);
  EXPECT_EQ(env.world.host, "[::1]");
  EXPECT_EQ(env.world.port, 4000);
  EXPECT_EQ(env.world.token, "secret");
  EXPECT_EQ(read(with(kSyncbnRun, {{"RANK_ID", "0"}})).world.serve, Serve::no);  // the launcher does
}

TEST(LaunchEnv, TheInnermostCounts) {
  const Variables all = with(with(kTorchrun, kMpirun), with(kMsrun, kSyncbnRun));
  const struct {
    const char* launcher;
    Variables variables;
  } cases[] = {
      {"syncbn-run", all},
      {"msrun", without(all, "SYNCBN_STORE")},
      // RANK set by hand in an MPI job.
      {"mpirun", with(kTorchrun, kMpirun)},
      {"torchrun", with(kTorchrun, {{"RANK_ID", "9"}, {"RANK_SIZE", "8"}})},
      // Other families are not looked at.
      {"mpirun", with(kMpirun, {{"RANK", "nonsense"}})},
      {"mpiexec", with(kTorchrun, kMpiexec)},
      // Mpirun in an allocation, on another node.
      {"mpirun", with(kMpirun, kSrun)},
      {"mpiexec", with(kMpiexec, kSrun)},
      // --mpi=pmi2.
      {"srun", with(kSrun, {{"PMI_RANK", "3"}, {"PMI_SIZE", "9"}})},
      {"torchrun", with(kSrun, kTorchrun)},
      // Exported by a batch script.
      {"srun", with(kSrun, {{"WORLD_SIZE", "9"}})},
      {"syncbn-run", with(kSrun, kSyncbnRun)},
      {"msrun", with(kSrun, kMsrun)},
      {"torchrun", with(with(kTorchrun, kMpirun), {{"TORCHELASTIC_RUN_ID", "none"}})},
      {"mpirun", with(kMpirun, {{"TORCHELASTIC_RUN_ID", "none"}})},
      {"msrun", with(kMsrun, {{"MS_SIMULATION_LEVEL", "1"}})},
      {"syncbn-run", with(kSyncbnRun, {{"MS_SIMULATION_LEVEL", "1"}})},
      {"the dry run", with(kTorchrun, kDryRun)},
      // Msrun sets it there, too.
      {"the dry run", with(kDryRun, {{"MS_WORKER_NUM", "64"}})},
  };
  for (const auto& [launcher, variables] : cases) EXPECT_EQ(read(variables).launcher, launcher);
}

TEST(LaunchEnv, BackendByHand) {
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_BACKEND", "mpi"}})).backend, Backend::mpi);
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_BACKEND", "auto"}})).backend, Backend::gloo);
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_BACKEND", "mpi"}}), Backend::gloo).backend,
            Backend::gloo);  // the program's word counts
  EXPECT_EQ(read(kTorchrun, Backend::mpi).backend, Backend::mpi);
  const LaunchEnv env = read(with(kMpirun, {{"MASTER_ADDR", "h"}, {"SYNCBN_PORT", "5"}}), Backend::gloo);
  EXPECT_EQ(env.backend, Backend::gloo);
  EXPECT_EQ(env.world.port, 5);
  expect_error<GroupError>(
      refusal(kMpirun, Backend::gloo),
      {"mpirun", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK='1'", "OMPI_COMM_WORLD_SIZE='3'",
       "OMPI_COMM_WORLD_LOCAL_RANK='1'", "OMPI_COMM_WORLD_LOCAL_SIZE='2'"});
  expect_error<GroupError>(refusal(kMpiexec, Backend::gloo), {"MASTER_ADDR", "MASTER_PORT"});
  expect_error<GroupError>(refusal({{"SYNCBN_BACKEND", "nccl"}}),
                           {"SYNCBN_BACKEND", "'nccl'", "auto", "gloo", "mpi", "simulation"});
}

TEST(LaunchEnv, HalfSetFamilies) {
  const Refusal cases[] = {
      {{{"RANK", "0"}}, {"torchrun", "WORLD_SIZE", "RANK='0'"}},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}},
       {"torchrun", "MASTER_ADDR", "MASTER_PORT", "RANK='0'", "WORLD_SIZE='2'"}},
      {{{"MS_SCHED_HOST", "h"}}, {"msrun", "MS_WORKER_NUM"}},
      {{{"MS_WORKER_NUM", "2"}, {"MS_SCHED_HOST", "h"}},
       {"msrun", "MS_SCHED_PORT", "MS_WORKER_NUM='2'", "MS_SCHED_HOST='h'"}},
      {{{"OMPI_COMM_WORLD_SIZE", "2"}}, {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE='2'"}},
      {{{"SYNCBN_STORE", "h:1"}, {"RANK_ID", "0"}},
       {"syncbn-run", "RANK_SIZE", "SYNCBN_STORE='h:1'", "RANK_ID='0'"}},
      {{{"RANK_ID", "0"}, {"RANK_SIZE", "8"}}, {"RANK_SIZE"}},
      {{{"PMI_SIZE", "2"}}, {"mpiexec", "PMI_RANK", "PMI_SIZE='2'"}},
      {{{"MPI_LOCALRANKID", "0"}}, {"mpiexec", "PMI_RANK", "PMI_SIZE"}},
      {{{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "1"}},
       {"Slurm", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID='1'"}},
      {{{"SLURM_STEP_NUM_TASKS", "2"}}, {"SLURM_STEP_NODELIST", "SLURM_PROCID"}},
      {without(kSrun, "SLURM_JOB_ID"), {"SLURM_JOB_ID"}},
      {{{"WORLD_SIZE", "2"}}, {"torchrun", "RANK", "WORLD_SIZE='2'"}},
  };
  for (const auto& [variables, facts] : cases) expect_error<GroupError>(refusal(variables), facts);
  EXPECT_EQ(read({{"RANK_ID", "0"}, {"RANK_SIZE", "1"}}).world.size, 1);
}

TEST(LaunchEnv, Contradictions) {
  const Refusal cases[] = {
      {with(kMsrun, {{"RANK_SIZE", "8"}}), {"MS_WORKER_NUM ... 4", "RANK_SIZE ... 8"}},
      {with(kMsrun, {{"RANK_ID", "4"}}), {"rank 4 ... 4 ranks", "[0, 4)"}},
      {with(kTorchrun, {{"RANK", "4"}}), {"rank 4 ... 4 ranks"}},
      {with(kTorchrun, {{"LOCAL_RANK", "2"}}), {"local rank 2 ... 2 local ranks"}},
      {with(kTorchrun, {{"LOCAL_WORLD_SIZE", "5"}}), {"5 local ranks ... 4 ranks"}},
      {with(kTorchrun, {{"MASTER_PORT", "65535"}}), {"SYNCBN_PORT"}},
      {with(kMpiexec, {{"PMI_RANK", "3"}}), {"rank 3 ... 3 ranks"}},
      {with(kMpiexec, {{"MPI_LOCALRANKID", "2"}}), {"local rank 2 ... 2 local ranks"}},
      {with(kSrun, {{"SLURM_PROCID", "9"}}), {"rank 9 ... 9 ranks"}},
      {with(kSrun, {{"SLURM_LOCALID", "2"}}), {"local rank 2 ... 2 local ranks"}},
      {with(kSrun, {{"SLURM_STEP_NODELIST", "n["}}), {"SLURM_STEP_NODELIST", "'n['"}},
      {with(kSrun, {{"SLURM_STEP_ID", "batch"}}), {"SLURM_STEP_ID", "'batch'"}},
      {with(kDryRun, {{"RANK_ID", "64"}}), {"rank 64 ... 64 ranks"}},
      {with(kMsrun, {{"MS_ROLE", "MS_PSERVER"}}), {"MS_ROLE", "'MS_PSERVER'", "MS_WORKER", "MS_SCHED"}},
  };
  for (const auto& [variables, facts] : cases) expect_error<GroupError>(refusal(variables), facts);
}

TEST(LaunchEnv, NumbersAreReadStrictly) {
  for (const char* value : {"", " 2", "2 ", "+2", "2.0", "0x2", "two", "99999999999"}) {
    expect_error<GroupError>(refusal(with(kTorchrun, {{"WORLD_SIZE", value}})),
                             {"torchrun", "WORLD_SIZE", fmt::format("'{}'", value), "1"});
  }
  for (const char* value : {"-1", "1e0", "nan"}) {
    expect_error<GroupError>(refusal(with(kTorchrun, {{"RANK", value}})),
                             {"RANK", fmt::format("'{}'", value), "0"});
  }
  for (const char* value : {"0", "65536", "-5", "http"}) {
    expect_error<GroupError>(refusal(with(kTorchrun, {{"SYNCBN_PORT", value}})),
                             {"SYNCBN_PORT", fmt::format("'{}'", value)});
  }
  for (const char* value : {"", "host", "host:", ":5", "host:0", "host:5x", "host:70000"}) {
    expect_error<GroupError>(refusal(with(kSyncbnRun, {{"SYNCBN_STORE", value}})),
                             {"SYNCBN_STORE", fmt::format("'{}'", value)});
  }
}

TEST(LaunchEnv, SharedMemory) {
  EXPECT_TRUE(read_shared_memory(from({})));
  EXPECT_TRUE(read_shared_memory(from({{"SYNCBN_SHARED_MEMORY", "1"}})));
  EXPECT_FALSE(read_shared_memory(from({{"SYNCBN_SHARED_MEMORY", "0"}})));
  for (const char* value : {"", "off", "2"}) {
    expect_error<GroupError>(
        [&] {
          read_shared_memory(from({{"SYNCBN_SHARED_MEMORY", value}}));
        },
        {"SYNCBN_SHARED_MEMORY", fmt::format("'{}'", value), "0 or 1"});
  }
}

TEST(LaunchEnv, Timeout) {
  EXPECT_EQ(read_timeout(from({})), std::chrono::seconds(300));
  EXPECT_EQ(read_timeout(from({{"SYNCBN_TIMEOUT_S", "2.5"}})), std::chrono::milliseconds(2500));
  EXPECT_EQ(read_timeout(from({{"SYNCBN_TIMEOUT_S", "1000000000"}})), std::chrono::seconds(1000000000));
  for (const char* value : {"", "0", "-1", "nan", "inf", "5s", "1e10", "0.0001", " 5"}) {
    expect_error<GroupError>(
        [&] {
          read_timeout(from({{"SYNCBN_TIMEOUT_S", value}}));
        },
        {"SYNCBN_TIMEOUT_S", fmt::format("'{}'", value), "[0.001, 1000000000]"});
  }
}

}  // namespace
}  // namespace syncbn::environment
