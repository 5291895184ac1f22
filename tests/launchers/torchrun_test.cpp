// SPDX-License-Identifier: Apache-2.0

// The real torchrun. It gives exit code 1 whatever a worker's was, and reports that one.
#include <fmt/core.h>

#include "framework_job.h"
#include "rendezvous/socket.h"

namespace syncbn::launchers {
namespace {

using launch::contains;

class Torchrun : public FrameworkTest {
 protected:
  Job& run_job(const Strings& options, const Strings& task, const std::string& name = ".",
               const Variables& environment = {}) {
    return run("torchrun", joined({options, {"--no-python", SYNCBN_WORKER}, task}), name, environment);
  }
  static Strings on_one_node(int workers, int master_port) {
    return {fmt::format("--nproc-per-node={}", workers), fmt::format("--master-port={}", master_port)};
  }
};

TEST_F(Torchrun, SumsAreRight) {
  Job& job = run_job(on_one_node(2, free_ports_in_a_row()), {"sums"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  for (int rank = 0; rank < 2; ++rank)
    EXPECT_TRUE(contains(job.out(), sums_line(rank, 2, rank, 2))) << job.out();
}

// Here torchrun takes any free port for itself, and the one above may be anybody's.
TEST_F(Torchrun, StandaloneWithAPortForTheRendezvous) {
  Job& job = run_job({"--standalone", "--nproc-per-node=3"}, {"sums"}, ".",
                     {{"SYNCBN_PORT", std::to_string(launch::free_port())}});
  EXPECT_EQ(job.wait(), 0) << job.err();
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_TRUE(contains(job.out(), sums_line(rank, 3, rank, 3))) << job.out();
}

TEST_F(Torchrun, TwoNodes) {
  const std::string port = fmt::format("--master-port={}", free_ports_in_a_row());
  const auto run_node = [&](int node) -> Job& {
    return run_job({"--nnodes=2", fmt::format("--node-rank={}", node), "--master-addr=127.0.0.1", port,
                    "--nproc-per-node=2"},
                   {"sums"}, fmt::format("node{}", node));
  };
  Job& second = run_node(1);
  Job& first = run_node(0);
  EXPECT_EQ(first.wait(), 0) << first.err();
  EXPECT_EQ(second.wait(), 0) << second.err();
  const std::string out = first.out() + second.out();
  for (int rank = 0; rank < 4; ++rank) EXPECT_TRUE(contains(out, sums_line(rank, 4, rank, 4))) << out;
}

// control: where last_exits leaves with 0, torchrun waits for the others, which end with a PeerError and 1.
TEST_F(Torchrun, AFailingRankEndsTheJob) {
  Job& job = run_job(on_one_node(3, free_ports_in_a_row()), {"last_exits"});
  EXPECT_EQ(job.wait(), 1) << job.err();
  EXPECT_TRUE(contains(job.err(), "exitcode  : 7 ")) << job.err();
  EXPECT_TRUE(contains(job.err(), "rank      : 2 (local_rank: 2)")) << job.err();
}

TEST_F(Torchrun, AMismatchEndsTheJobAndSaysWhoCalledWhat) {
  Job& job = run_job(on_one_node(3, free_ports_in_a_row()), {"different_counts", "strict"});
  EXPECT_EQ(job.wait(), 1) << job.err();
  EXPECT_TRUE(contains(job.out(), "MismatchError on rank")) << job.out();
  EXPECT_TRUE(contains(
      job.out(), "rank 2 ... all_reduce_sum ... values=5 ... ranks 0-1 ... all_reduce_sum ... values=4"))
      << job.out();
}

// control: with the port above free the job succeeds (SumsAreRight).
TEST_F(Torchrun, APortInUseIsNamed) {
  const int port = free_ports_in_a_row();
  const base::Fd other = rendezvous::listen_on("127.0.0.1", port + 1);
  Job& job = run_job(on_one_node(2, port), {"sums", "strict"});
  EXPECT_EQ(job.wait(), 1) << job.err();
  const std::string message = fmt::format("127.0.0.1:{} ... Address already in use", port + 1);
  EXPECT_TRUE(contains(job.out(), message)) << job.out();
}

}  // namespace
}  // namespace syncbn::launchers
