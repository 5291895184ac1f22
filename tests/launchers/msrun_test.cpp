// SPDX-License-Identifier: Apache-2.0

// The real msrun. It starts the program once more as a scheduler, which leaves init() with exit code 0: msrun
// does not wait for it then, and ends about two seconds after the last worker or the first failure.
#include <fmt/core.h>

#include <map>

#include "framework_job.h"

namespace syncbn::launchers {
namespace {

using launch::contains;
using launch::read_file;

class Msrun : public FrameworkTest {
 protected:
  // `name` is the node's folder, which has the logs too. No worker's log goes to the console (-1 means all,
  // and there is no worker 1000000), so that no `tail` has to be ended.
  Job& run_job(const Strings& options, const Strings& task, const std::string& name = ".") {
    const Strings always = {"--join=True", "--tail_worker_log=1000000",
                            "--log_dir=" + (folder() / name).string()};
    return run("msrun", joined({always, options, {SYNCBN_SCRIPTS "/run_program.py", SYNCBN_WORKER}, task}),
               name);
  }
  static Strings on_one_node(int workers) {
    return {fmt::format("--worker_num={}", workers), fmt::format("--local_worker_num={}", workers),
            fmt::format("--master_port={}", free_ports_in_a_row()), "--cluster_time_out=120"};
  }
  std::string worker_log(int number, const std::string& name = ".") const {
    return read_file(folder() / name / fmt::format("worker_{}.log", number));
  }
};

TEST_F(Msrun, SumsAreRight) {
  Job& job = run_job(on_one_node(3), {"sums"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_TRUE(contains(worker_log(rank), sums_line(rank, 3, rank, 3))) << worker_log(rank);
}

// control: where the scheduler waits for the workers in init(), msrun waits for it, beyond kPatience.
TEST_F(Msrun, AFailingRankEndsTheJob) {
  Job& job = run_job(on_one_node(3), {"last_exits"});
  EXPECT_EQ(job.wait(), 1) << job.err();
  EXPECT_TRUE(contains(job.err(), "Error code: 7.")) << job.err();
}

TEST_F(Msrun, AMismatchEndsTheJobAndSaysWhoCalledWhat) {
  Job& job = run_job(on_one_node(3), {"different_counts", "strict"});
  EXPECT_EQ(job.wait(), 1) << job.err();
  const std::string logs =
      worker_log(0) + worker_log(1) + worker_log(2);  // msrun may end one before it speaks
  EXPECT_TRUE(contains(logs, "MismatchError on rank")) << logs;
  EXPECT_TRUE(
      contains(logs, "rank 2 ... all_reduce_sum ... values=5 ... ranks 0-1 ... all_reduce_sum ... values=4"))
      << logs;
}

// control: without the file the workers have the ranks of their numbers (SumsAreRight).
TEST_F(Msrun, ARankTableMapsTheRanks) {
  const auto file = write("ranks.json", R"({"version": "1.0", "server_count": "1", "status": "completed",
      "server_list": [{"server_id": "127.0.0.1", "pod_ip": "127.0.0.1", "device": [
        {"device_id": "0", "device_ip": "192.168.1.6", "rank_id": "2"},
        {"device_id": "1", "device_ip": "192.168.2.6", "rank_id": "0"},
        {"device_id": "2", "device_ip": "192.168.3.6", "rank_id": "1"}]}]})");
  Job& job = run_job(joined({on_one_node(3), {"--rank_table_file=" + file.string()}}), {"sums"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  for (const auto& [worker, rank] : std::map<int, int>{{0, 2}, {1, 0}, {2, 1}})
    EXPECT_TRUE(contains(worker_log(worker), sums_line(rank, 3, rank, 3))) << worker_log(worker);
}

// msrun starts no scheduler then, and one worker.
TEST_F(Msrun, ADryRunIsOneRankOfTheWorld) {
  Job& job = run_job(joined({on_one_node(8), {"--sim_level=1", "--sim_rank_id=5"}}), {"place", "strict"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(contains(worker_log(0), "rank 5: of 8, local rank 5 of 8\n")) << worker_log(0);
}

class MsrunOnTwoNodes : public Msrun {
 protected:
  // Both find the master's address their own and start a scheduler.
  Job& run_node(int node, const Strings& options, int time_out = 120) {
    return run_job(joined({{"--worker_num=4", "--local_worker_num=2", fmt::format("--master_port={}", port_),
                            fmt::format("--cluster_time_out={}", time_out)},
                           options}),
                   {"sums", "strict"}, fmt::format("node{}", node));
  }
  const int port_ = free_ports_in_a_row();
};

TEST_F(MsrunOnTwoNodes, RanksByNodeRank) {
  Job& second = run_node(1, {"--node_rank=1"});
  Job& first = run_node(0, {"--node_rank=0"});
  EXPECT_EQ(first.wait(), 0) << first.err();
  EXPECT_EQ(second.wait(), 0) << second.err();
  for (int rank = 0; rank < 4; ++rank) {
    const std::string log = worker_log(rank, fmt::format("node{}", rank / 2));
    EXPECT_TRUE(contains(log, sums_line(rank, 4, rank, 4))) << log;
  }
}

TEST_F(MsrunOnTwoNodes, RanksAreHandedOut) {
  Job& second = run_node(1, {});
  Job& first = run_node(0, {});
  EXPECT_EQ(first.wait(), 0) << first.err();
  EXPECT_EQ(second.wait(), 0) << second.err();
  std::string logs;  // the workers' numbers are those on their node
  for (const char* node : {"node0", "node1"})
    for (int worker = 0; worker < 2; ++worker) logs += worker_log(worker, node);
  for (int rank = 0; rank < 4; ++rank) EXPECT_TRUE(contains(logs, sums_line(rank, 4, rank, 4))) << logs;
}

TEST_F(MsrunOnTwoNodes, AMissingNodeIsNamedByItsRanks) {
  Job& job = run_node(0, {"--node_rank=0"}, 5);
  EXPECT_EQ(job.wait(), 1) << job.err();
  const std::string logs = worker_log(0, "node0") + worker_log(1, "node0");
  EXPECT_TRUE(contains(logs, "TimeoutError ... ranks 2-3 of 4")) << logs;
}

}  // namespace
}  // namespace syncbn::launchers
