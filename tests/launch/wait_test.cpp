// SPDX-License-Identifier: Apache-2.0
// A line about each long wait: who waits, where, for whom, until when, and which option changes it.
#include <fmt/core.h>
#include <signal.h>

#include <chrono>
#include <regex>

#include "job.h"
#include "launch/status_text.h"
#include "programs.h"

namespace syncbn::launch {
namespace {

using namespace std::chrono_literals;
using WaitTest = JobTest;

TEST(WaitText, HasTheLimitAndItsOption) {
  JobPlan plan;
  plan.options.worker_num = plan.options.local_worker_num = 8;
  plan.store_port = 8119;
  EXPECT_EQ(
      wait_for_workers_text(plan, {0}, {1, 2, 3, 7}, std::nullopt),
      "syncbn-run: rank 0 waits at 127.0.0.1:8119 for ranks 1-3, 7 to call init() of syncbn, without a limit "
      "(--cluster_time_out is negative)\n");
  plan.cluster_time_out = 600s;
  const std::string text = wait_for_workers_text(plan, {0, 1}, {2}, std::chrono::steady_clock::now() + 590s);
  EXPECT_TRUE(std::regex_match(
      text,
      std::regex(
          "syncbn-run: ranks 0-1 wait at 127\\.0\\.0\\.1:8119 for rank 2 to call init\\(\\) of syncbn, until "
          "[0-2][0-9]:[0-5][0-9]:[0-5][0-9], in 590 of 600 s \\(--cluster_time_out\\)\n")))
      << text;
}

TEST_F(WaitTest, TheWaitForWorkersAndNodesIsToldAfterTenSeconds) {
  // Both jobs wait at the same time. control: without tell_wait() in Supervisor::run nothing is said.
  const Strings one_node = options(2);
  Strings two_nodes = options(2);
  two_nodes[1] = "--local_worker_num=1";
  Job& workers = launch(
      command(one_node, {"bash", "-c", "[ $RANK = 1 ] && " + join_as_rank() + "exec sleep 1000"}), {}, "one");
  Job& nodes = launch(command(two_nodes, {"true"}), {}, "two");
  Strings others = options(2);
  others[1] = "--local_worker_num=1";
  Job& silent = launch(command(others, {"true"}), {{"SYNCBN_LOG", "error"}}, "silent");
  const auto port = [](const Strings& options) {
    return std::stoi(options[2].substr(options[2].find('=') + 1)) + 1;
  };
  const std::string limit = ", until [0-9:]{8}, in 5[89][0-9] of 600 s \\(--cluster_time_out\\)\n";
  const auto tells = [](const Job& job, const std::string& text) {
    return wait_until([&] { return std::regex_search(job.err(), std::regex(text)); });
  };
  EXPECT_TRUE(tells(
      workers, fmt::format("syncbn-run: rank 1 waits at 127.0.0.1:{} for rank 0 to call init\\(\\) of syncbn",
                           port(one_node)) +
                   limit))
      << workers.err();
  EXPECT_TRUE(
      tells(nodes,
            fmt::format("syncbn-run: launcher [0-9]+ on .* waits at 127.0.0.1:{} for the launchers of 1 of 2 "
                        "workers \\(present: 1 by launcher .*\\)",
                        port(two_nodes)) +
                limit))
      << nodes.err();
  EXPECT_EQ(silent.err().find(" waits "), std::string::npos) << silent.err();
  for (Job* job : {&workers, &nodes, &silent}) {
    job->signal(SIGINT);
    EXPECT_EQ(job->wait(), 128 + SIGINT) << job->err();
  }
}

TEST_F(WaitTest, AWrongLevelIsAUsageError) {
  Job& job = launch(command(options(1), {"true"}), {{"SYNCBN_LOG", "loud"}}, "loud");
  EXPECT_EQ(job.wait(), 2);
  EXPECT_TRUE(contains(job.err(), "SYNCBN_LOG: 'loud' ... off, error, warning or info")) << job.err();
}

}  // namespace
}  // namespace syncbn::launch
