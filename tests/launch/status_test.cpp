// SPDX-License-Identifier: Apache-2.0

// The status line on a terminal, and plain lines where there is none.
#include <fmt/core.h>

#include <algorithm>

#include "launch/plan.h"
#include "launch/status_text.h"
#include "terminal.h"

namespace syncbn::launch {
namespace {

constexpr int kWide = 200;
const std::string kWait = "until [ -e $DIR/go$RANK ]; do sleep 0.01; done";

class StatusTest : public JobTest {
 protected:
  TerminalJob terminal_job(Strings options, const std::string& script, int width = kWide,
                           const std::string& term = "xterm") const {
    return TerminalJob(command(options, {"bash", "-c", script}), marked({{"TERM", term}}), width);
  }
};

std::size_t rows_with(const Screen& screen, const std::string& part) {
  return static_cast<std::size_t>(std::count_if(screen.rows().begin(), screen.rows().end(),
                                                [&](const std::string& row) { return contains(row, part); }));
}

TEST(StatusText, TellsWhatIsKnown) {
  JobPlan plan;
  plan.options.worker_num = plan.options.local_worker_num = 4;
  EXPECT_EQ(status_text(plan, {4, 4, 3, 1}), "4 workers: 4 up, 3 joined, 3 running, 1 done");
  plan.options.ms_scheduler = true;
  EXPECT_EQ(status_text(plan, {4, 4, 0, 1}), "4 workers: 4 up, 3 running, 1 done");
  plan.options.ms_scheduler = false;
  plan.options.worker_num = 8;
  EXPECT_EQ(status_text(plan, {0, 0, 0, 0}), "waiting for the launchers of 4 of 8 workers");
  EXPECT_EQ(status_text(plan, {4, 0, 0, 0}), "waiting for the launchers of 4 of 8 workers");
  EXPECT_EQ(status_text(plan, {8, 4, 0, 0}), "4 of 8 workers: 4 up, 0 joined, 4 running, 0 done");
  plan.log_dir = "L";
  plan.log_name = "worker";
  plan.slots = {{"0", 7, {}}, {"1", 5, {}}, {"2", 4, {}}, {"3", 6, {}}};
  EXPECT_EQ(started_text(plan, {}), "started 4 of 8 workers (ranks 4-7); logs: L/worker_<rank>.log");
  plan.options.worker_num = plan.options.local_worker_num = 1;
  EXPECT_EQ(status_text(plan, {1, 1, 0, 0}), "1 worker: 1 up, 1 running, 0 done");
  EXPECT_EQ(started_text(plan, {}), "started 1 worker; logs: L/worker_<rank>.log");
  plan.restart = 2;
  EXPECT_EQ(status_text(plan, {1, 1, 0, 0}), "restart 2, 1 worker: 1 up, 1 running, 0 done");
  EXPECT_EQ(started_text(plan, {}), "started 1 worker; logs: L/worker_<rank>.restart_2.log");
}

TEST_F(StatusTest, TheLastLineFollowsTheJob) {
  TerminalJob job = terminal_job(options(3), "echo here $RANK; " + kWait + "; echo bye $RANK");
  EXPECT_TRUE(job.bottom_becomes("syncbn-run: 3 workers: 3 up, 0 joined, 3 running, 0 done")) << job.bytes();
  write("go1", "");
  EXPECT_TRUE(job.bottom_becomes("syncbn-run: 3 workers: 3 up, 0 joined, 2 running, 1 done")) << job.bytes();
  write("go0", "");
  EXPECT_TRUE(job.bottom_becomes("syncbn-run: 3 workers: 3 up, 0 joined, 1 running, 2 done")) << job.bytes();
  write("go2", "");
  EXPECT_EQ(job.wait(), 0) << job.bytes();
  Strings rows = job.screen().rows();
  std::sort(rows.begin(), rows.end());
  EXPECT_EQ(rows, (Strings{"", "[0] bye 0", "[0] here 0", "[1] bye 1", "[1] here 1", "[2] bye 2",
                           "[2] here 2", "syncbn-run: all workers exited with 0",
                           fmt::format("syncbn-run: started 3 workers; logs: {}/worker_<rank>.log",
                                       log_dir().string())}));
}

TEST_F(StatusTest, OutputAndStatusNeverMix) {
  // control: without erase() in Console::write the rows hold pieces of the status line.
  TerminalJob job = terminal_job(options(3), "for i in $(seq 100); do printf $RANK; echo \" line $i\"; done");
  EXPECT_EQ(job.wait(), 0) << job.bytes();
  EXPECT_TRUE(contains(job.bytes(), "3 running, 0 done")) << "there was a status line";
  for (const std::string rank : {"0", "1", "2"}) {
    for (int i = 1; i <= 100; ++i) {
      const std::string line = fmt::format("[{0}] {0} line {1}", rank, i);
      EXPECT_EQ(std::count(job.screen().rows().begin(), job.screen().rows().end(), line), 1) << line;
    }
  }
  EXPECT_EQ(job.screen().rows().size(), 300U + 3U) << "started, the lines, exited, the cursor's row";
  EXPECT_EQ(rows_with(job.screen(), "running"), 0U);
}

TEST_F(StatusTest, ANarrowTerminalShowsItsBeginning) {
  // control: uncut, the line wraps, and what is above its last row stays on the screen.
  TerminalJob job = terminal_job(options(2), "echo a; " + kWait, 24);
  EXPECT_TRUE(job.bottom_becomes("syncbn-run: 2 workers: ")) << job.bytes();
  write("go0", "");
  write("go1", "");
  EXPECT_EQ(job.wait(), 0) << job.bytes();
  EXPECT_EQ(rows_with(job.screen(), "syncbn-run: 2 workers"), 0U) << job.bytes();
  EXPECT_EQ(rows_with(job.screen(), "[0] a") + rows_with(job.screen(), "[1] a"), 2U);
}

TEST_F(StatusTest, CtrlCTakesTheLineAway) {
  TerminalJob job = terminal_job(options(2), "sleep 1000");
  EXPECT_TRUE(job.bottom_becomes("syncbn-run: 2 workers: 2 up, 0 joined, 2 running, 0 done")) << job.bytes();
  job.type("\x03");
  EXPECT_EQ(job.wait(), 130);
  EXPECT_EQ(rows_with(job.screen(), "running"), 0U) << job.bytes();
  EXPECT_EQ(rows_with(job.screen(), "syncbn-run: ended by SIGINT"), 1U) << job.bytes();
}

TEST_F(StatusTest, AFailuresReportStandsAlone) {
  TerminalJob job = terminal_job(options(2), "if [ $RANK = 1 ]; then echo reason; exit 5; fi; sleep 1000");
  EXPECT_EQ(job.wait(), 5);
  EXPECT_EQ(rows_with(job.screen(), "syncbn-run: rank 1 failed first: exit code 5; the job was ended"), 1U)
      << job.bytes();
  EXPECT_EQ(rows_with(job.screen(), "running"), 0U) << job.bytes();
}

TEST_F(StatusTest, ATerminalThatCannotEraseGetsPlainLines) {
  for (const std::string term : {"dumb", ""}) {
    TerminalJob job = terminal_job(options(2), "echo a", kWide, term);
    EXPECT_EQ(job.wait(), 0) << job.bytes();
    EXPECT_FALSE(contains(job.bytes(), "\x1b") || contains(job.bytes(), "running")) << job.bytes();
    EXPECT_EQ(rows_with(job.screen(), "started 2 workers"), 1U);
    EXPECT_EQ(rows_with(job.screen(), "all workers exited with 0"), 1U);
  }
}

TEST_F(StatusTest, WithoutATerminalThereArePlainLines) {
  Job& job = start_shell(options(2), "echo a");
  EXPECT_EQ(job.wait(), 0);
  EXPECT_EQ(job.err(), fmt::format("syncbn-run: started 2 workers; logs: {}/worker_<rank>.log\n"
                                   "syncbn-run: all workers exited with 0\n",
                                   log_dir().string()));
}

}  // namespace
}  // namespace syncbn::launch
