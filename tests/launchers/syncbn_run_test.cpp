// SPDX-License-Identifier: Apache-2.0

// Programs of PyTorch and of MindSpore that know nothing of syncbn, under syncbn-run.
#include <fmt/core.h>

#include "framework_job.h"

namespace syncbn::launchers {
namespace {

using launch::contains;

class SyncbnRun : public FrameworkTest {
 protected:
  // The script runs by the python3 of the virtual environment.
  Job& run_script(const Strings& more, const Strings& script) {
    Strings all = {SYNCBN_RUN,
                   "--worker_num=2",
                   "--local_worker_num=2",
                   fmt::format("--master_port={}", free_ports_in_a_row()),
                   "--log_dir=" + log_dir().string(),
                   "--join=True"};
    return launch(joined({all, more, script}), with_venv({}));
  }
};

TEST_F(SyncbnRun, PyTorchFindsItsVariables) {
  // No rank joins at the launcher's store.
  Job& job = run_script({"--cluster_time_out=1"}, {SYNCBN_SCRIPTS "/torch_job.py"});
  EXPECT_EQ(job.wait(), 0) << job.out() << job.err();
  for (int rank = 0; rank < 2; ++rank)
    EXPECT_TRUE(contains(log(rank), fmt::format("rank {} of 2: sum 3\n", rank))) << log(rank);
}

// control: without --ms_scheduler, MindSpore's init() finds no scheduler and the job fails.
TEST_F(SyncbnRun, MindSporeFindsItsScheduler) {
  Job& job = run_script({"--ms_scheduler=True"}, {SYNCBN_SCRIPTS "/mindspore_job.py"});
  EXPECT_EQ(job.wait(), 0) << job.out() << job.err();
  for (int rank = 0; rank < 2; ++rank)
    EXPECT_TRUE(contains(log(rank), fmt::format("rank {} of 2: sums [3, 4611686018427387904]\n", rank)))
        << log(rank);
}

// MindSpore's own launcher takes half a minute for it, and its exit code is 1.
TEST_F(SyncbnRun, AFailingRankOfMindSporeEndsTheJobWithItsCode) {
  Job& job = run_script({"--ms_scheduler=True"}, {SYNCBN_SCRIPTS "/mindspore_job.py", "1"});
  EXPECT_EQ(job.wait(), 7) << job.out() << job.err();
  EXPECT_TRUE(contains(job.err(), "rank 1 ... exit code 7")) << job.err();
}

}  // namespace
}  // namespace syncbn::launchers
