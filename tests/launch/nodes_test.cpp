// SPDX-License-Identifier: Apache-2.0

// Jobs of several nodes: a launcher on each, with an address of its own.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

#include "job.h"
#include "network.h"
#include "programs.h"

namespace syncbn::launch {
namespace {

using std::chrono::steady_clock;

constexpr int kCannotStart = 1;
constexpr int kNotJoined = 124;
constexpr int kLost = 128 + SIGKILL;

struct Launcher {
  int node = 0;
  int local_worker_num = 1;
  Strings options;  // further ones
};

class NodesTest : public JobTest {
 protected:
  void TearDown() override {
    launchers_.clear();
    JobTest::TearDown();
  }

  Job& launch(const Launcher& launcher, int worker_num, const Strings& task, const Variables& more = {}) {
    const auto place = folder() / fmt::format("launcher{}", launchers_.size());
    std::filesystem::create_directories(place);
    Strings command = network_.on(launcher.node);
    const Strings options = {SYNCBN_RUN,
                             fmt::format("--worker_num={}", worker_num),
                             fmt::format("--local_worker_num={}", launcher.local_worker_num),
                             fmt::format("--master_port={}", port_ - 1),
                             "--log_dir=" + place.string(),
                             "--join=True"};
    command.insert(command.end(), options.begin(), options.end());
    if (!contains(fmt::format("{}", fmt::join(launcher.options, " ")), "--master_addr"))
      command.push_back("--master_addr=" + network_.address(0));
    command.insert(command.end(), launcher.options.begin(), launcher.options.end());
    command.insert(command.end(), task.begin(), task.end());
    Variables variables = more;
    variables["SYNCBN_TEST_MARK"] = folder().filename().string();
    variables["DIR"] = folder().string();
    variables["LOGS"] = place.string();
    return *launchers_.emplace_back(std::make_unique<Job>(command, variables, place));
  }
  Job& launch_shell(const Launcher& launcher, int worker_num, const std::string& script) {
    return launch(launcher, worker_num, {"bash", "-c", script});
  }

  // Sockets of the store's port in a state (of /proc/net/tcp) where `job` runs.
  int sockets(const Job& job, const std::string& state) const {
    int count = 0;
    for (const std::string& line : lines_of(read_file(fmt::format("/proc/{}/net/tcp", job.pid())))) {
      // "  0: 0100007F:1FB7 00000000:0000 0A …": number, own address, peer's address, state.
      std::istringstream words(line);
      std::string number, own, peer, its_state;
      words >> number >> own >> peer >> its_state;
      if (own.ends_with(fmt::format(":{:04X}", port_)) && its_state == state) ++count;
    }
    return count;
  }
  bool listens(const Job& job) const { return sockets(job, "0A") > 0; }
  int connections(const Job& server) const { return sockets(server, "01"); }
  // The launcher that serves, before any other is started.
  Job& launch_first(const Launcher& launcher, int worker_num, const std::string& script) {
    Job& job = launch_shell(launcher, worker_num, script);
    EXPECT_TRUE(wait_until([&] { return listens(job); }));
    return job;
  }

  // The ranks whose logs a launcher has written.
  std::set<int> ranks_of(std::size_t launcher) const {
    std::set<int> ranks;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder() / fmt::format("launcher{}", launcher))) {
      int rank = -1;
      if (std::sscanf(entry.path().filename().c_str(), "worker_%d.log", &rank) == 1) ranks.insert(rank);
    }
    return ranks;
  }
  std::string worker_log(std::size_t launcher, int rank) const {
    return read_file(folder() / fmt::format("launcher{}", launcher) / fmt::format("worker_{}.log", rank));
  }

  static void expect_said(const Job& job, const Strings& texts) {
    for (const std::string& text : texts) EXPECT_TRUE(contains(job.err(), text)) << text << "\n" << job.err();
  }
  // All end with `code` and say each of `texts`.
  void expect_end(const std::vector<Job*>& jobs, int code, const Strings& texts) {
    for (Job* job : jobs) {
      EXPECT_EQ(job->wait(), code) << job->err();
      expect_said(*job, texts);
    }
    EXPECT_TRUE(all_gone());
  }

  const Network network_{3, folder() / "network"};
  const int port_ = free_port();

 private:
  std::vector<std::unique_ptr<Job>> launchers_;
};

// Waits for a file in $DIR.
const std::string kWait = "await() { until [ -e $DIR/$1 ]; do sleep 0.01; done; }; ";
const std::string kSleep = "touch $DIR/ready$RANK; exec sleep 1000";

#ifdef SYNCBN_TRAINING_WORKER
TEST_F(NodesTest, TrainTogether) {
  // Uneven numbers of workers, ranks handed out; a launcher comes before the one that serves.
  const Strings task = {SYNCBN_TRAINING_WORKER, "where"};
  Job& early = launch({1, 1, {}}, 5, task);
  Job& server = launch({0, 2, {}}, 5, task);
  Job& third = launch({2, 2, {}}, 5, task);
  for (Job* job : {&early, &server, &third}) ASSERT_EQ(job->wait(), 0) << job->out() << job->err();
  const std::vector<std::set<int>> ranks = {ranks_of(0), ranks_of(1), ranks_of(2)};
  EXPECT_EQ(ranks[0].size(), 1U);
  EXPECT_EQ(ranks[1].size(), 2U);
  EXPECT_EQ(ranks[2].size(), 2U);
  if (network_.separate()) {
    EXPECT_EQ(ranks[1], (std::set{0, 1})) << "the serving node comes first";
  }
  std::set<int> all;
  std::set<std::string> means;
  for (std::size_t launcher = 0; launcher < 3; ++launcher) {
    const int first = *ranks[launcher].begin();
    const std::size_t count = ranks[launcher].size();
    for (const int rank : ranks[launcher]) {
      all.insert(rank);
      const Strings lines = lines_of(worker_log(launcher, rank));
      ASSERT_EQ(lines.size(), 2U) << worker_log(launcher, rank);
      // On one machine the library sees one host.
      if (network_.separate()) {
        EXPECT_EQ(lines[0], fmt::format("rank {} of 5, local rank {} of {}, LOCAL_RANK {}", rank,
                                        rank - first, count, rank - first));
      }
      means.insert(lines[1]);
    }
  }
  EXPECT_EQ(all, (std::set{0, 1, 2, 3, 4}));
  EXPECT_EQ(means.size(), 1U) << "one mean for all";
  EXPECT_TRUE(means.begin()->starts_with("mean "));
}

TEST_F(NodesTest, AWorkerThatDiesOnOneEndsTheOther) {
  const Strings task = {SYNCBN_TRAINING_WORKER, "die"};  // rank 1
  Job& first = launch({0, 1, {"--node_rank=0"}}, 2, task);
  Job& second = launch({1, 1, {"--node_rank=1"}}, 2, task);
  expect_end({&first, &second}, 128 + SIGKILL, {"rank 1 on node 1 ... signal 9 (SIGKILL)"});
}
#endif

TEST_F(NodesTest, NodeRanksGiveTheOrder) {
  // control: without the sort in Membership::add the ranks follow the order of coming.
  const std::string script = "echo $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $WORLD_SIZE";
  Job& last = launch_first({0, 2, {"--node_rank=2"}}, 6, script);
  Job& first = launch_shell({1, 1, {"--node_rank=0"}}, 6, script);
  Job& middle = launch_shell({2, 3, {"--node_rank=1"}}, 6, script);
  expect_end({&last, &first, &middle}, 0, {});
  EXPECT_EQ(worker_log(0, 4) + worker_log(0, 5), "4 0 2 6\n5 1 2 6\n");
  EXPECT_EQ(worker_log(1, 0), "0 0 1 6\n");
  EXPECT_EQ(worker_log(2, 1) + worker_log(2, 2) + worker_log(2, 3), "1 0 3 6\n2 1 3 6\n3 2 3 6\n");
}

TEST_F(NodesTest, ANameIsAnAddress) {
  const Strings name = {"--master_addr=" + network_.host(0)};
  Job& first = launch({0, 1, name}, 2, {"bash", "-c", "echo $MASTER_ADDR"});
  Job& second = launch({1, 1, name}, 2, {"bash", "-c", "echo $MASTER_ADDR"});
  expect_end({&first, &second}, 0, {});
  EXPECT_EQ(worker_log(0, *ranks_of(0).begin()), network_.host(0) + "\n");
}

TEST_F(NodesTest, AFailureOnOneEndsAllAndIsToldOnAll) {
  const std::string script =
      kWait +
      "touch $DIR/ready$RANK; if [ $RANK = 3 ]; then await go; echo reason; exit 7; fi; exec sleep 1000";
  Job& first = launch_first({0, 2, {}}, 5, script);
  Job& second = launch_shell({1, 2, {"--node_rank=-1"}}, 5, script);
  Job& third = launch_shell({2, 1, {}}, 5, script);
  for (int rank = 0; rank < 5; ++rank) ASSERT_TRUE(appears(fmt::format("ready{}", rank)));
  const auto begin = steady_clock::now();
  write("go", "");
  const std::string log = (folder() / fmt::format("launcher{}", ranks_of(1).contains(3) ? 1 : 2)).string();
  for (Job* job : {&first, &second, &third}) {
    EXPECT_EQ(job->wait(), 7) << job->err();
    std::cout << fmt::format("a launcher had ended {} ms after the order to fail\n",
                             (steady_clock::now() - begin) / std::chrono::milliseconds(1));
    EXPECT_TRUE(contains(job->err(), "rank 3 on node ")) << job->err();
    EXPECT_TRUE(contains(job->err(), "exit code 7")) << job->err();
    const bool on_console = contains(job->out(), "[3] reason\n");
    for (const std::string& text :
         {fmt::format("the end of {}/worker_3.log on node ", log), std::string("  | reason\n")})
      EXPECT_NE(contains(job->err(), text), on_console) << text << "\n" << job->err();
  }
  EXPECT_TRUE(processes().empty()) << "nothing is left when the launchers have returned";
}

TEST_F(NodesTest, AllNameTheSameFirstFailure) {
  // Both workers wait at one pipe and fail at the same moment.
  // control: where a launcher takes its own failure for the job's end at once, the exit codes differ, in most
  // rounds.
  ASSERT_EQ(mkfifo((folder() / "pipe").c_str(), 0600), 0);
  const std::string script = "exec 3<>$DIR/pipe; touch $DIR/ready$RANK; read <&3; exit $((RANK + 10))";
  for (int round = 0; round < 4; ++round) {
    Job& first = launch_first({0, 1, {"--node_rank=0"}}, 2, script);
    Job& second = launch_shell({1, 1, {"--node_rank=1"}}, 2, script);
    ASSERT_TRUE(appears("ready0") && appears("ready1"));
    std::ofstream(folder() / "pipe") << "\n\n" << std::flush;
    const int code = first.wait();
    EXPECT_EQ(second.wait(), code);
    ASSERT_TRUE(code == 10 || code == 11) << code;
    const std::string told = fmt::format("rank {0} on node {0} (", code - 10);
    for (const Job* job : {&first, &second}) EXPECT_TRUE(contains(job->err(), told)) << job->err();
    const int other = 11 - code;
    EXPECT_TRUE(contains((other == 0 ? first : second).err(),
                         fmt::format("rank {} ... exit code {}", other, other + 10)))
        << first.err() << second.err();
    for (const int rank : {0, 1}) std::filesystem::remove(folder() / fmt::format("ready{}", rank));
  }
}

TEST_F(NodesTest, ANodeThatCannotStartItsWorkersTellsTheOthers) {
  // control: without the catch in Supervisor::start_workers the others hear of a lost launcher.
  Job& first = launch_first({0, 1, {"--node_rank=0"}}, 2, kSleep);
  std::filesystem::create_directories(folder() / "launcher1" / "worker_1.log");
  Job& second = launch_shell({1, 1, {"--node_rank=1"}}, 2, kSleep);
  expect_end({&first, &second}, kCannotStart, {"node 1", "worker_1.log: Is a directory"});
}

TEST_F(NodesTest, ANodeThatIsDoneWaitsForTheOthers) {
  // control: where Membership takes the first node's success for the job's, the late failure is lost.
  for (const int code : {0, 5}) {
    SCOPED_TRACE(code);
    const std::string script = kWait + fmt::format("[ $RANK = 0 ] || {{ await go; exit {}; }}", code);
    Job& first = launch_first({0, 1, {"--node_rank=0"}}, 2, script);
    Job& second = launch_shell({1, 1, {"--node_rank=1"}}, 2, script);
    ASSERT_TRUE(wait_until([&] { return processes().size() == 5; })) << "two launchers and one worker";
    write("go", "");
    expect_end({&first, &second}, code, {code == 0 ? "" : "rank 1 on node 1"});
    std::filesystem::remove(folder() / "go");
  }
}

TEST_F(NodesTest, CtrlCOnOneEndsAll) {
  Job& first = launch_first({0, 1, {}}, 3, kSleep);
  Job& second = launch_shell({1, 1, {}}, 3, kSleep);
  Job& third = launch_shell({2, 1, {}}, 3, kSleep);
  for (int rank = 0; rank < 3; ++rank) ASSERT_TRUE(appears(fmt::format("ready{}", rank)));
  second.signal(SIGINT);
  expect_end({&first, &second, &third}, 128 + SIGINT, {"SIGINT ... node"});
}

TEST_F(NodesTest, CtrlCEndsTheWaitForTheOthers) {
  Job& alone = launch_shell({1, 1, {}}, 2, kSleep);
  ASSERT_TRUE(wait_until([&] { return processes().size() == 2; }));
  ASSERT_TRUE(network_.separate() || wait_until([&] { return listens(alone); }));
  alone.signal(SIGINT);
  expect_end({&alone}, 128 + SIGINT, {"SIGINT"});
  Job& first = launch_first({0, 1, {}}, 3, kSleep);
  Job& second = launch_shell({1, 1, {}}, 3, kSleep);
  // Until the second has come too: to kill it at once would be another story.
  ASSERT_TRUE(wait_until([&] { return connections(first) >= 4; }));
  first.signal(SIGTERM);
  expect_end({&first, &second}, 128 + SIGTERM, {"SIGTERM"});
}

TEST_F(NodesTest, AKilledLauncherEndsTheOthers) {
  // control: without the will in JobConnection nobody hears of the second one's death.
  const std::string script = "echo $PPID > $DIR/supervisor$RANK; exec sleep 1000";
  for (const int killed : {0, 1}) {  // the one that serves, and another
    SCOPED_TRACE(fmt::format("node {}", killed));
    Job& first = launch_first({0, 1, {"--node_rank=0"}}, 2, script);
    Job& second = launch_shell({1, 1, {"--node_rank=1"}}, 2, script);
    ASSERT_TRUE(appears("supervisor0") && appears("supervisor1"));
    kill(read_pid(fmt::format("supervisor{}", killed)), SIGKILL);
    expect_end({&first, &second}, kLost, {});
    const std::string told = (killed == 0 ? second : first).err();
    EXPECT_TRUE(
        contains(told, fmt::format("launcher {} ... lost", read_pid(fmt::format("supervisor{}", killed)))))
        << told;
    for (const int rank : {0, 1}) std::filesystem::remove(folder() / fmt::format("supervisor{}", rank));
  }
}

TEST_F(NodesTest, AKilledFrontEndsTheOthers) {
  Job& first = launch_first({0, 1, {}}, 2, kSleep);
  Job& second = launch_shell({1, 1, {}}, 2, kSleep);
  ASSERT_TRUE(appears("ready0") && appears("ready1"));
  second.signal(SIGKILL);
  EXPECT_EQ(second.wait(), -SIGKILL);
  expect_end({&first}, 128 + SIGTERM, {"SIGTERM ... node 1"});
}

TEST_F(NodesTest, ANodeThatFallsSilentIsLost) {
  // control: without notice_silence() both wait for ever.
  if (!network_.separate()) GTEST_SKIP() << "there is no cable to take out";
  Job& first = launch_first({0, 1, {}}, 2, kSleep);
  Job& second = launch_shell({1, 1, {}}, 2, kSleep);
  ASSERT_TRUE(appears("ready0") && appears("ready1"));
  const auto begin = steady_clock::now();
  network_.cut_off(1);
  expect_end({&first, &second}, kLost, {"lost"});
  std::cout << fmt::format("both had ended {} s after the cable was out\n",
                           (steady_clock::now() - begin) / std::chrono::seconds(1));
  EXPECT_TRUE(contains(first.err(), "(10.1.0.2) ... lost")) << first.err();
  EXPECT_TRUE(contains(second.err(), "(10.1.0.1) ... lost")) << second.err();
}

TEST_F(NodesTest, ThoseThatWaitInVainSayWhoHasCome) {
  const Strings limited = {"--cluster_time_out=5"};  // all that come must be there by then
  Job& first = launch_first({0, 3, limited}, 6, kSleep);
  Job& second = launch_shell({1, 1, limited}, 6, kSleep);
  expect_end({&first, &second}, kNotJoined,
             {"2 of 6 workers ... 5 s ... --cluster_time_out", "3 by launcher", "1 by launcher"});
  EXPECT_EQ(contains(first.err(), "launchers on other machines"), !network_.separate());
  if (!network_.separate()) return;
  Job& late = launch_shell({1, 1, {"--cluster_time_out=1"}}, 6, kSleep);
  expect_end(
      {&late}, kNotJoined,
      {fmt::format("10.1.0.1:{} ... 1 s", port_), "Connection refused", "Cannot assign requested address"});
}

TEST_F(NodesTest, WorkersThatDoNotJoinAreNamed) {
  const Strings limited = {"--cluster_time_out=5"};
  const std::string script = "[ $RANK = 1 ] && " + join_as_rank() + "exec sleep 1000";
  Job& first = launch_first({0, 1, limited}, 2, script);
  Job& second = launch_shell({1, 1, limited}, 2, script);
  EXPECT_EQ(first.wait(), kNotJoined) << first.err();
  EXPECT_EQ(second.wait(), kNotJoined) << second.err();
  const auto why = [](const Job& job) {
    for (const std::string& line : lines_of(job.err()))
      if (contains(line, "had not joined")) return line;
    return job.err();
  };
  EXPECT_EQ(why(first), why(second));
  EXPECT_TRUE(contains(first.err(), "1 of 1 workers ... node 0")) << first.err();
  EXPECT_TRUE(contains(first.err(), "5 s ... --cluster_time_out ... rank 0")) << first.err();
}

struct Disagreement {
  const char* name;
  int worker_num[2];
  Launcher launchers[2];
  Strings texts;
};

void PrintTo(const Disagreement& each, std::ostream* out) { *out << each.name; }

class DisagreementTest : public NodesTest, public ::testing::WithParamInterface<Disagreement> {};

TEST_P(DisagreementTest, IsToldByAllAndToThoseWhoComeLater) {
  // control: without kRefusalTime the last one waits for a launcher in vain.
  const Disagreement& each = GetParam();
  Job& first = launch_first(each.launchers[0], each.worker_num[0], kSleep);
  Job& second = launch_shell(each.launchers[1], each.worker_num[1], kSleep);
  EXPECT_EQ(second.wait(), kCannotStart);
  expect_said(second, each.texts);
  Job& late = launch_shell({2, 1, {}}, each.worker_num[0], kSleep);
  expect_end({&late, &first}, kCannotStart, each.texts);
}

INSTANTIATE_TEST_SUITE_P(
    Nodes, DisagreementTest,
    ::testing::Values(
        Disagreement{"WorkerNum", {4, 5}, {{0, 2, {}}, {1, 2, {}}}, {"--worker_num ... 4 ... 5"}},
        Disagreement{"TooMany",
                     {4, 4},
                     {{0, 2, {}}, {1, 3, {}}},
                     {"--local_worker_num ... 5 ... --worker_num=4 ... 2 by launcher ... 3 by launcher"}},
        Disagreement{"NodeRankTwice",
                     {4, 4},
                     {{0, 2, {"--node_rank=1"}}, {1, 1, {"--node_rank=1"}}},
                     {"--node_rank ... 1 ... launcher ... launcher"}},
        Disagreement{"NodeRankMissing",
                     {4, 4},
                     {{0, 2, {"--node_rank=0"}}, {1, 2, {"--node_rank=2"}}},
                     {"--node_rank 1 ... --node_rank=2 ... 0 to 1"}},
        Disagreement{"NodeRankHalfGiven",
                     {4, 4},
                     {{0, 2, {"--node_rank=1"}}, {1, 2, {}}},
                     {"--node_rank ... 1 ... -1"}}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(NodesTest, OneTooManyIsToldAndTheJobGoesOn) {
  // control: where Membership::add counts the newcomer too, it ends the job.
  const std::string script = kWait + "touch $DIR/ready$RANK; await go; echo done";
  Job& first = launch_first({0, 1, {}}, 2, script);
  Job& second = launch_shell({1, 1, {}}, 2, script);
  ASSERT_TRUE(appears("ready0") && appears("ready1"));
  Job& third = launch_shell({2, 1, {}}, 2, script);
  EXPECT_EQ(third.wait(), kCannotStart);
  EXPECT_TRUE(contains(third.err(), "--worker_num=2 ... 1 by launcher")) << third.err();
  EXPECT_TRUE(contains(third.err(), "1 of this launcher")) << third.err();
  write("go", "");
  expect_end({&first, &second}, 0, {});
  EXPECT_EQ(worker_log(0, 0) + worker_log(1, 1), "done\ndone\n");
}

TEST_F(NodesTest, AStrangerAtThePortIsNoLauncher) {
  for (const std::string kind : {"web", "silent"}) {
    SCOPED_TRACE(kind);
    std::filesystem::create_directory(folder() / kind);
    Strings command = network_.on(0);
    command.insert(command.end(),
                   {"python3", program("stranger.py"), network_.address(0), std::to_string(port_), kind});
    Job stranger(command, {{"DIR", folder().string()}}, folder() / kind);
    ASSERT_TRUE(appears("listening")) << stranger.err();
    Job& first = launch_shell({0, 1, {"--cluster_time_out=1"}}, 2, kSleep);
    Job& second = launch_shell({1, 1, {"--cluster_time_out=1"}}, 2, kSleep);
    const std::string found = fmt::format("{}:{}", network_.address(0), port_);
    expect_end({&first, &second}, kind == "web" ? kCannotStart : kNotJoined,
               {found, kind == "web" ? "answer ... store" : "no answer"});
    EXPECT_TRUE(contains(first.err(), "Address already in use")) << first.err();
    std::filesystem::remove(folder() / "listening");
  }
}

TEST_F(NodesTest, AnotherTokenIsRefused) {
  const auto with_token = [](const std::string& token) { return Variables{{"SYNCBN_TOKEN", token}}; };
  Job& first = launch({0, 1, {}}, 2, {"bash", "-c", kSleep}, with_token("ours"));
  ASSERT_TRUE(wait_until([&] { return listens(first); }));
  Job& second = launch({1, 1, {}}, 2, {"bash", "-c", kSleep}, with_token("theirs"));
  EXPECT_EQ(second.wait(), kCannotStart);
  EXPECT_TRUE(contains(second.err(), "token ... SYNCBN_TOKEN")) << second.err();
  first.signal(SIGINT);
  expect_end({&first}, 128 + SIGINT, {"SIGINT"});
}

}  // namespace
}  // namespace syncbn::launch
