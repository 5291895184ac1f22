// Which launcher's variables count, what they say, and what is refused
#include "group/launch_env.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "environment.h"
#include "ranks.h"

namespace syncbn::group {
namespace {

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
const Variables kMsrun = {{"MS_ROLE", "MS_WORKER"},  {"MS_WORKER_NUM", "4"},    {"MS_SCHED_HOST", "10.0.0.1"},
                          {"MS_SCHED_PORT", "8118"}, {"RANK_ID", "3"},          {"RANK_SIZE", "4"},
                          {"DEVICE_ID", "1"},        {"MS_TOPO_TIMEOUT", "100"}};
const Variables kMpirun = {{"OMPI_COMM_WORLD_RANK", "1"},
                           {"OMPI_COMM_WORLD_SIZE", "3"},
                           {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                           {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
const Variables kSyncbnRun = with(kTorchrun, {{"SYNCBN_STORE", "[::1]:4000"},
                                              {"RANK_ID", "2"},
                                              {"RANK_SIZE", "4"},
                                              {"DEVICE_ID", "0"},
                                              {"SYNCBN_TOKEN", "secret"}});

TEST(LaunchEnv, NoLauncher) {
  const LaunchEnv env = read({{"MASTER_ADDR", "h"}, {"LOCAL_RANK", "x"}});  // left over in a container
  EXPECT_EQ(env.launcher, "");
  EXPECT_EQ(env.backend, "");
  EXPECT_EQ(env.world.size, 1);
}

TEST(LaunchEnv, Torchrun) {
  const LaunchEnv env = read(kTorchrun);
  EXPECT_EQ(env.launcher, "torchrun");
  EXPECT_EQ(env.backend, "gloo");
  EXPECT_EQ(env.world.rank, 2);
  EXPECT_EQ(env.world.size, 4);
  EXPECT_EQ(env.world.host, "h");
  EXPECT_EQ(env.world.port, 29501);
  EXPECT_FALSE(env.world.serve);
  EXPECT_EQ(env.local_rank, 0);
  EXPECT_EQ(env.local_size, 2);
  EXPECT_TRUE(read(with(kTorchrun, {{"RANK", "0"}})).world.serve);
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_PORT", "77"}})).world.port, 77);
  EXPECT_EQ(read(with(without(kTorchrun, "MASTER_PORT"), {{"SYNCBN_PORT", "77"}})).world.port, 77);
}

TEST(LaunchEnv, TorchrunOfOneNeedsNoRendezvous) {
  const LaunchEnv env = read({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  EXPECT_EQ(env.world.size, 1);
  EXPECT_EQ(env.backend, "");
}

TEST(LaunchEnv, Msrun) {
  const LaunchEnv env = read(kMsrun);
  EXPECT_EQ(env.launcher, "msrun");
  EXPECT_EQ(env.backend, "gloo");
  EXPECT_EQ(env.world.rank, 3);
  EXPECT_EQ(env.world.size, 4);
  EXPECT_EQ(env.world.host, "10.0.0.1");
  EXPECT_EQ(env.world.port, 8119);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.rendezvous_timeout, std::chrono::seconds(100));
  EXPECT_FALSE(env.scheduler);
  EXPECT_FALSE(read(without(kMsrun, "RANK_ID")).world.rank.has_value());
  EXPECT_FALSE(read(without(kMsrun, "RANK_ID")).world.serve);
  const Variables unranked = with(kMsrun, {{"RANK_ID", "0"}});  // inherited from the scheduler
  EXPECT_FALSE(read(unranked).world.rank.has_value());
  EXPECT_EQ(read(with(unranked, {{"MS_NODE_ID", "0"}})).world.rank, 0);
  EXPECT_TRUE(read(with(kMsrun, {{"MS_ROLE", "MS_SCHED"}, {"RANK_ID", "0"}})).scheduler);
  EXPECT_GT(read(with(kMsrun, {{"MS_TOPO_TIMEOUT", "-1"}})).rendezvous_timeout, std::chrono::hours(1000));
}

TEST(LaunchEnv, Mpirun) {
  const LaunchEnv env = read(kMpirun);
  EXPECT_EQ(env.launcher, "mpirun");
  EXPECT_EQ(env.backend, "mpi");
  EXPECT_EQ(env.world.rank, 1);
  EXPECT_EQ(env.world.size, 3);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.local_size, 2);
}

TEST(LaunchEnv, SyncbnRun) {
  const LaunchEnv env = read(kSyncbnRun);
  EXPECT_EQ(env.launcher, "syncbn-run");
  EXPECT_EQ(env.backend, "gloo");
  EXPECT_EQ(env.world.rank, 2);
  EXPECT_EQ(env.world.size, 4);
  EXPECT_EQ(env.world.host, "[::1]");
  EXPECT_EQ(env.world.port, 4000);
  EXPECT_EQ(env.world.token, "secret");
  EXPECT_FALSE(read(with(kSyncbnRun, {{"RANK_ID", "0"}})).world.serve);  // the launcher does
}

TEST(LaunchEnv, TheInnermostCounts) {
  const Variables all = with(with(kTorchrun, kMpirun), with(kMsrun, kSyncbnRun));
  EXPECT_EQ(read(all).launcher, "syncbn-run");
  EXPECT_EQ(read(without(all, "SYNCBN_STORE")).launcher, "msrun");
  EXPECT_EQ(read(with(kTorchrun, kMpirun)).launcher, "mpirun");  // RANK set by hand in an MPI job
  EXPECT_EQ(read(with(kTorchrun, {{"RANK_ID", "9"}, {"RANK_SIZE", "8"}})).launcher, "torchrun");
  EXPECT_EQ(read(with(kMpirun, {{"RANK", "nonsense"}})).launcher,
            "mpirun");  // other families are not looked at
}

TEST(LaunchEnv, BackendByHand) {
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_BACKEND", "mpi"}})).backend, "mpi");
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_BACKEND", "auto"}})).backend, "gloo");
  EXPECT_EQ(read(with(kTorchrun, {{"SYNCBN_BACKEND", "mpi"}}), Backend::gloo).backend,
            "gloo");  // the program's word counts
  EXPECT_EQ(read(kTorchrun, Backend::mpi).backend, "mpi");
  const LaunchEnv env = read(with(kMpirun, {{"MASTER_ADDR", "h"}, {"SYNCBN_PORT", "5"}}), Backend::gloo);
  EXPECT_EQ(env.backend, "gloo");
  EXPECT_EQ(env.world.port, 5);
  EXPECT_EQ(refusal(kMpirun, Backend::gloo),
            "GroupError: environment of mpirun (Open MPI) with engine gloo: MASTER_ADDR, MASTER_PORT missing "
            "(found nothing)");
  EXPECT_EQ(refusal({{"SYNCBN_BACKEND", "nccl"}}),
            "GroupError: SYNCBN_BACKEND: 'nccl', expected auto, gloo or mpi");
}

TEST(LaunchEnv, HalfSetFamilies) {
  EXPECT_EQ(refusal({{"RANK", "0"}}),
            "GroupError: environment of torchrun: WORLD_SIZE missing (found RANK='0')");
  EXPECT_EQ(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}}),
            "GroupError: environment of torchrun: MASTER_ADDR, MASTER_PORT missing (found RANK='0', "
            "WORLD_SIZE='2')");
  EXPECT_EQ(refusal({{"MS_SCHED_HOST", "h"}}),
            "GroupError: environment of msrun: MS_WORKER_NUM missing (found nothing)");
  EXPECT_EQ(
      refusal({{"MS_WORKER_NUM", "2"}, {"MS_SCHED_HOST", "h"}}),
      "GroupError: environment of msrun: MS_SCHED_PORT missing (found MS_WORKER_NUM='2', MS_SCHED_HOST='h')");
  EXPECT_EQ(refusal({{"OMPI_COMM_WORLD_SIZE", "2"}}),
            "GroupError: environment of mpirun (Open MPI): OMPI_COMM_WORLD_RANK missing (found "
            "OMPI_COMM_WORLD_SIZE='2')");
  EXPECT_EQ(
      refusal({{"SYNCBN_STORE", "h:1"}, {"RANK_ID", "0"}}),
      "GroupError: environment of syncbn-run: RANK_SIZE missing (found SYNCBN_STORE='h:1', RANK_ID='0')");
  const std::string alone = refusal({{"RANK_ID", "0"}, {"RANK_SIZE", "8"}});
  EXPECT_EQ(alone.rfind(
                "GroupError: environment of no known launcher: RANK_SIZE names peers that can't be found", 0),
            0u)
      << alone;
  EXPECT_EQ(read({{"RANK_ID", "0"}, {"RANK_SIZE", "1"}}).world.size, 1);
  for (const char* size :
       {"PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {  // each process alone would be a silent wrong answer
    EXPECT_NE(refusal({{size, "2"}}).find(std::string(size) + " names peers"), std::string::npos) << size;
    EXPECT_EQ(read({{size, "1"}}).world.size, 1) << size;
    EXPECT_EQ(read(with(kTorchrun, {{size, "2"}})).launcher, "torchrun") << size;
  }
}

TEST(LaunchEnv, Contradictions) {
  EXPECT_NE(refusal(with(kMsrun, {{"RANK_SIZE", "8"}}))
                .find("MS_WORKER_NUM: 4, RANK_SIZE: 8, expected equal numbers"),
            std::string::npos);
  EXPECT_NE(refusal(with(kMsrun, {{"RANK_ID", "4"}})).find("rank 4 of 4 ranks, expected a rank in [0, 4)"),
            std::string::npos);
  EXPECT_NE(refusal(with(kTorchrun, {{"RANK", "4"}})).find("rank 4 of 4 ranks"), std::string::npos);
  EXPECT_NE(refusal(with(kTorchrun, {{"LOCAL_RANK", "2"}})).find("local rank 2 of 2 local ranks"),
            std::string::npos);
  EXPECT_NE(refusal(with(kTorchrun, {{"LOCAL_WORLD_SIZE", "5"}})).find("5 local ranks of 4 ranks"),
            std::string::npos);
  EXPECT_NE(refusal(with(kTorchrun, {{"MASTER_PORT", "65535"}})).find("set SYNCBN_PORT"), std::string::npos);
  EXPECT_NE(refusal(with(kMsrun, {{"MS_ROLE", "MS_PSERVER"}}))
                .find("MS_ROLE: 'MS_PSERVER', expected MS_WORKER or MS_SCHED"),
            std::string::npos);
}

TEST(LaunchEnv, NumbersAreReadStrictly) {
  for (const char* value : {"", " 2", "2 ", "+2", "2.0", "0x2", "two", "99999999999"}) {
    const std::string text = refusal(with(kTorchrun, {{"WORLD_SIZE", value}}));
    EXPECT_EQ(
        text.rfind(
            fmt::format(
                "GroupError: environment of torchrun: WORLD_SIZE: '{}', expected a number of ranks >= 1",
                value),
            0),
        0u)
        << text;
  }
  for (const char* value : {"-1", "1e0", "nan"}) {
    EXPECT_NE(refusal(with(kTorchrun, {{"RANK", value}}))
                  .find(fmt::format("RANK: '{}', expected a rank >= 0", value)),
              std::string::npos);
  }
  for (const char* value : {"0", "65536", "-5", "http"}) {
    EXPECT_NE(refusal(with(kTorchrun, {{"SYNCBN_PORT", value}}))
                  .find(fmt::format("SYNCBN_PORT: '{}', expected a port", value)),
              std::string::npos);
  }
  for (const char* value : {"", "host", "host:", ":5", "host:0", "host:5x", "host:70000"}) {
    EXPECT_NE(refusal(with(kSyncbnRun, {{"SYNCBN_STORE", value}}))
                  .find(fmt::format("SYNCBN_STORE: '{}', expected host:port", value)),
              std::string::npos)
        << value;
  }
}

TEST(LaunchEnv, Timeout) {
  EXPECT_EQ(read_timeout(from({})), std::chrono::seconds(300));
  EXPECT_EQ(read_timeout(from({{"SYNCBN_TIMEOUT_S", "2.5"}})), std::chrono::milliseconds(2500));
  EXPECT_EQ(read_timeout(from({{"SYNCBN_TIMEOUT_S", "1000000000"}})), std::chrono::seconds(1000000000));
  for (const char* value : {"", "0", "-1", "nan", "inf", "5s", "1e10", "0.0001", " 5"}) {
    EXPECT_EQ(
        outcome([&] {
          read_timeout(from({{"SYNCBN_TIMEOUT_S", value}}));
        }),
        fmt::format("GroupError: SYNCBN_TIMEOUT_S: '{}', expected a number of seconds in [0.001, 1000000000]",
                    value));
  }
}

}  // namespace
}  // namespace syncbn::group
