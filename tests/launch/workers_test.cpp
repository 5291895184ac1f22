// SPDX-License-Identifier: Apache-2.0

// What workers find when they start, and where what they print goes.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <regex>

#include "environment/rank_table.h"
#include "job.h"
#include "programs.h"
#include "rendezvous/socket.h"

namespace syncbn::launch {
namespace {

using WorkersTest = JobTest;

Strings sorted_lines(const std::string& text) {
  Strings lines = lines_of(text);
  std::sort(lines.begin(), lines.end());
  return lines;
}

// control: with the store of supervisor.cpp on all addresses ("") the others are reached.
TEST_F(WorkersTest, OfOneNodeMeetOnTheLoopbackAddressAlone) {
  start_shell(options(2), "echo ${SYNCBN_STORE##*:} > $DIR/port; until [ -e $DIR/go ]; do sleep 0.01; done");
  const int port = read_pid("port");
  const auto reached = [&](const std::string& host, std::chrono::milliseconds time) {
    try {
      rendezvous::connect_to(host, port, std::chrono::steady_clock::now() + time);
      return std::string("reached");
    } catch (const TimeoutError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(reached("127.0.0.1", kPatience), "reached");
  Strings others = environment::local_addresses();
  others.emplace_back("127.0.0.2");
  for (const std::string& other : others) {
    if (other == "127.0.0.1" || other.find(':') != std::string::npos) continue;
    EXPECT_TRUE(contains(reached(other, std::chrono::milliseconds(200)), "refused")) << other;
  }
  write("go", "");
}

TEST_F(WorkersTest, FindTheirRankAndTheRendezvousInTheEnvironment) {
  const int port = free_port();
  Job& job = start({"--worker_num=3", "--local_worker_num=3", fmt::format("--master_port={}", port - 1),
                    "--log_dir=" + log_dir().string(), "--join=True", "--cluster_time_out=77"},
                   {"env"},
                   {{"SYNCBN_TOKEN", "secret"},
                    {"SYNCBN_RESTART", "4"},
                    {"RANK", "9"},
                    {"MS_ROLE", "MS_WORKER"},
                    {"MS_SCHED_HOST", "elsewhere"},
                    {"MS_SCHED_PORT", "1"},
                    {"MS_WORKER_NUM", "5"},
                    {"PYTHONUNBUFFERED", ""}});
  ASSERT_EQ(job.wait(), 0) << job.err();
  for (int rank = 0; rank < 3; ++rank) {
    SCOPED_TRACE(fmt::format("rank {}", rank));
    const Variables expected = {{"RANK_ID", std::to_string(rank)},
                                {"RANK", std::to_string(rank)},
                                {"RANK_SIZE", "3"},
                                {"WORLD_SIZE", "3"},
                                {"DEVICE_ID", std::to_string(rank)},
                                {"LOCAL_RANK", std::to_string(rank)},
                                {"LOCAL_WORLD_SIZE", "3"},
                                {"MASTER_ADDR", "127.0.0.1"},
                                {"MASTER_PORT", std::to_string(port - 1)},
                                {"MS_TOPO_TIMEOUT", "77"},
                                {"SYNCBN_STORE", fmt::format("127.0.0.1:{}", port)},
                                {"SYNCBN_TOKEN", "secret"},
                                {"SYNCBN_RESTART", "0"},
                                {"PYTHONUNBUFFERED", ""}};
    const Strings lines = lines_of(log(rank));
    for (const auto& variable : expected) {
      const std::string name = variable.first + "=";
      const auto has_name = [&](const std::string& line) { return line.starts_with(name); };
      EXPECT_EQ(std::count_if(lines.begin(), lines.end(), has_name), 1) << name;
      EXPECT_EQ(std::count(lines.begin(), lines.end(), name + variable.second), 1) << name << variable.second;
    }
    for (const std::string& line : lines) {
      EXPECT_FALSE(line.starts_with("MS_ROLE") || line.starts_with("MS_SCHED") ||
                   line.starts_with("MS_WORKER_NUM"))
          << line;
    }
  }
}

TEST_F(WorkersTest, GetARandomTokenForEachJob) {
  const auto token = [&] {
    Job& job = start_shell(options(2), "echo $SYNCBN_TOKEN $PYTHONUNBUFFERED", {{"SYNCBN_TOKEN", ""}});
    EXPECT_EQ(job.wait(), 0) << job.err();
    EXPECT_EQ(log(0), log(1));
    return log(0);
  };
  const std::string first = token();
  EXPECT_TRUE(std::regex_match(first, std::regex("[0-9a-f]{32} 1\n"))) << first;
  EXPECT_NE(first, token());
}

TEST_F(WorkersTest, MeetAtSyncbnPortWhereItIsSet) {
  const int port = free_port();
  Job& job =
      start_shell(options(1), "echo $SYNCBN_STORE; exec 3<>/dev/tcp/127.0.0.1/$SYNCBN_PORT && echo open",
                  {{"SYNCBN_PORT", std::to_string(port)}});
  EXPECT_EQ(job.wait(), 0) << job.out();
  EXPECT_EQ(log(0), fmt::format("127.0.0.1:{}\nopen\n", port));
}

TEST_F(WorkersTest, LeadASessionWithEmptyInputAndNoOpenFiles) {
  const int leaked = dup2(STDERR_FILENO, 9);  // inherited by syncbn-run, not by its workers
  Job& job = start(options(1), {program("show_process.py")});
  close(leaked);
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0), "True ''\n[0, 1, 2] False\n");
}

TEST_F(WorkersTest, TaskGetsItsArgumentsAsTheyAre) {
  const Strings arguments = {"-s", "--join", "False", "--worker_num=7", "a b", "", "--", "-1"};
  const std::string expected = "['-s', '--join', 'False', '--worker_num=7', 'a b', '', '--', '-1']\n";
  for (const Strings& front : {Strings{}, Strings{"python3"}}) {
    SCOPED_TRACE(fmt::format("in front: {}", fmt::join(front, " ")));
    Strings task = front;
    task.push_back(program("show_arguments.py"));
    task.insert(task.end(), arguments.begin(), arguments.end());
    Job& job = start(options(1), task);
    EXPECT_EQ(job.wait(), 0) << job.err();
    EXPECT_EQ(log(0), expected);
  }
}

TEST_F(WorkersTest, AnExecutableRunsAsItIs) {
  const auto script = write("task", "#!/bin/sh\necho \"$0 $1\"\n");
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  Job& job = start(options(1), {script.string(), "argument"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0), script.string() + " argument\n");
}

TEST_F(WorkersTest, LogsHoldOutputAndErrorsAndAreOverwritten) {
  for (const std::string word : {"a long first run", "second"}) {
    Job& job = start_shell(options(2), "echo out $WORD $RANK; echo err $WORD $RANK >&2; printf end",
                           {{"WORD", word}});
    ASSERT_EQ(job.wait(), 0) << job.err();
    for (const int rank : {0, 1})
      EXPECT_EQ(log(rank), fmt::format("out {0} {1}\nerr {0} {1}\nend", word, rank));
    EXPECT_EQ(sorted_lines(job.out()),
              (Strings{"[0] end", fmt::format("[0] err {} 0", word), fmt::format("[0] out {} 0", word),
                       "[1] end", fmt::format("[1] err {} 1", word), fmt::format("[1] out {} 1", word)}));
    EXPECT_TRUE(contains(job.err(), (log_dir() / "worker_<rank>.log").string())) << job.err();
  }
}

TEST_F(WorkersTest, LogNamesAreFilledIn) {
  Strings with_name = options(1);
  with_name[3] = "--log_dir=" + (folder() / "new" / "place").string();
  with_name.push_back("--worker_log_name={hostname}_{ip}_x");
  Job& job = start_shell(with_name, "echo here");
  EXPECT_EQ(job.wait(), 0) << job.err();
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  EXPECT_EQ(read_file(folder() / "new" / "place" / fmt::format("{}_127.0.0.1_x_0.log", host)), "here\n");
}

TEST_F(WorkersTest, OutputIsShownAsItComes) {
  // control: without PYTHONUNBUFFERED in a worker's environment, and without the inotify watch, nothing is
  // shown in time.
  Job& job = start(options(1), {program("echo_until_go.py")});
  EXPECT_TRUE(job.shows("[0] ready\n"));
  EXPECT_FALSE(contains(job.out(), "done"));
  write("go", "");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(job.out(), "[0] ready\n[0] done\n");
}

TEST_F(WorkersTest, LinesAreNeverMixed) {
  // Each line is written in pieces, with the other ranks' pieces in between.
  // control: a follower that shows every chunk at once, whether or not its line has ended, fails here.
  Job& job = start(options(3), {program("lines_in_pieces.py")});
  ASSERT_EQ(job.wait(), 0) << job.err();
  const Strings lines = lines_of(job.out());
  EXPECT_EQ(lines.size(), 120U);
  for (int rank = 0; rank < 3; ++rank) {
    int next = 0;
    for (const std::string& line : lines) {
      if (!line.starts_with(fmt::format("[{}] ", rank))) continue;
      EXPECT_EQ(line, fmt::format("[{0}] {1} line {2}", rank, std::string(35, static_cast<char>('0' + rank)),
                                  next++));
    }
    EXPECT_EQ(next, 40);
  }
}

TEST_F(WorkersTest, ALongOutputIsShownWhole) {
  Job& job = start_shell(options(2), "seq 1 200000");
  ASSERT_EQ(job.wait(), 0) << job.err();
  const Strings lines = lines_of(job.out());
  EXPECT_EQ(lines.size(), 400000U);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), "[1] 200000"), 1);
}

TEST_F(WorkersTest, TailWorkerLogChoosesRanks) {
  for (const auto& [choice, expected] :
       std::map<std::string, Strings>{{"1", {"[1] I am 1"}},
                                      {"0,2", {"[0] I am 0", "[2] I am 2"}},
                                      {"-1", {"[0] I am 0", "[1] I am 1", "[2] I am 2"}}}) {
    SCOPED_TRACE("--tail_worker_log=" + choice);
    Strings chosen = options(3);
    chosen.insert(chosen.end(), {"--tail_worker_log", choice});
    Job& job = start_shell(chosen, "echo I am $RANK");
    EXPECT_EQ(job.wait(), 0) << job.err();
    EXPECT_EQ(sorted_lines(job.out()), expected);
    for (const int rank : {0, 1, 2}) EXPECT_EQ(log(rank), fmt::format("I am {}\n", rank));
  }
}

TEST_F(WorkersTest, AnEarlySuccessLetsTheOthersRunOn) {
  Job& job = start_shell(
      options(3), "if [ $RANK = 1 ]; then exit 0; fi; until [ -e $DIR/go ]; do sleep 0.01; done; echo done");
  ASSERT_TRUE(wait_until([&] { return processes().size() >= 4; }));
  write("go", "");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0) + log(1) + log(2), "done\ndone\n");
}

}  // namespace
}  // namespace syncbn::launch
