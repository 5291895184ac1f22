// SPDX-License-Identifier: Apache-2.0

// The command line: what is accepted, and what is refused in which words and with which exit code.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "job.h"
#include "launch/option_table.h"
#include "programs.h"
#include "syncbn/version.h"

namespace syncbn::launch {
namespace {

using OptionsTest = JobTest;

constexpr int kCannotStart = 1;
constexpr int kUsage = 2;

TEST_F(OptionsTest, BothSpellingsMeanTheSame) {
  const std::string port = std::to_string(free_port() - 1);
  const std::string logs = log_dir().string();
  const std::vector<std::pair<std::string, std::string>> given = {
      {"--worker_num", "2"},   {"--local_worker_num", "2"},  {"--master_addr", "localhost"},
      {"--master_port", port}, {"--log_dir", logs},          {"--worker_log_name", "worker"},
      {"--join", "True"},      {"--cluster_time_out", "-5"}, {"--tail_worker_log", "-1"}};
  const std::string script = "echo $RANK_SIZE $MASTER_ADDR $MASTER_PORT $MS_TOPO_TIMEOUT $SYNCBN_STORE";
  for (const bool with_equals : {true, false}) {
    SCOPED_TRACE(with_equals ? "--option=value" : "--option value");
    Strings options;
    for (const auto& [name, value] : given) {
      if (with_equals) options.push_back(fmt::format("{}={}", name, value));
      if (!with_equals) options.insert(options.end(), {name, value});
    }
    Job& job = start_shell(options, script);
    EXPECT_EQ(job.wait(), 0) << job.err();
    for (const int rank : {0, 1})
      EXPECT_EQ(log(rank), fmt::format("2 localhost {} -1 localhost:{}\n", port, std::stoi(port) + 1));
    EXPECT_EQ(lines_of(job.out()).size(), 2U) << job.out();
  }
}

TEST_F(OptionsTest, EightWorkersInTheBackgroundAreTheDefault) {
  Job& job = start({fmt::format("--master_port={}", free_port() - 1), "--log_dir=" + log_dir().string()},
                   {"bash", "-c", "echo $RANK_SIZE"});
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(all_gone());
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(log(rank), "8\n");
  EXPECT_EQ(job.out(), "");
}

TEST_F(OptionsTest, WorkerNumAloneIsAJobOnOneNode) {
  // control: with 8 as the default of --local_worker_num, two workers are refused, and sixteen wait for a
  // second node.
  for (const Strings& given : {Strings{"-n", "2"}, Strings{"-n=2"}, Strings{"--worker_num=2"},
                               Strings{"--worker-num", "2"}, Strings{"--worker_num=16"}}) {
    SCOPED_TRACE(fmt::format("syncbn-run {}", fmt::join(given, " ")));
    Strings all = {fmt::format("--master_port={}", free_port() - 1), "--log-dir=" + log_dir().string(),
                   "--join=True"};
    all.insert(all.end(), given.begin(), given.end());
    Job& job = start_shell(all, "echo $RANK_SIZE $LOCAL_WORLD_SIZE");
    EXPECT_EQ(job.wait(), 0) << job.err();
    const std::string workers = given.back().ends_with("16") ? "16" : "2";
    EXPECT_EQ(lines_of(job.out()).size(), std::stoul(workers)) << job.out();
    EXPECT_EQ(log(1), workers + " " + workers + "\n");
  }
}

TEST_F(OptionsTest, HyphensInNamesCountAsUnderscores) {
  Strings hyphens = options(2);
  for (std::string& option : hyphens)
    std::replace(option.begin() + 2, option.begin() + static_cast<std::ptrdiff_t>(option.find('=')), '_',
                 '-');
  hyphens.insert(hyphens.end(), {"--cluster-time-out", "77", "--tail-worker-log=0"});
  Job& job = start_shell(hyphens, "echo $RANK_SIZE $MS_TOPO_TIMEOUT");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(job.out(), "[0] 2 77\n");
  Job& twice = start({"--worker-num=2", "--worker_num=2"}, {"true"});
  EXPECT_EQ(twice.wait(), kUsage);
  EXPECT_TRUE(contains(twice.err(), "--worker_num is given twice")) << twice.err();
}

TEST_F(OptionsTest, BadOnesAreRefused) {
  struct Case {
    Strings options;
    Strings facts;
  };
  write("plain", "text");
  const std::string plain = (folder() / "plain").string();
  const std::vector<Case> cases = {
      {{"--worker_num=0", "true"}, {"--worker_num ... '0'", "1 to 65536"}},
      {{"--worker_num=-2", "true"}, {"--worker_num ... '-2'"}},
      {{"--worker_num", "two", "true"}, {"--worker_num ... 'two'", "integer"}},
      {{"--worker_num=2.0", "true"}, {"--worker_num ... '2.0'"}},
      {{"--worker_num=", "true"}, {"--worker_num"}},
      {{"--worker_num=65537", "--local_worker_num=65537", "true"}, {"--worker_num ... '65537'", "65536"}},
      {{"--local_worker_num=0", "true"}, {"--local_worker_num ... '0'"}},
      {{"--worker_num=2", "--local_worker_num=3", "true"},
       {"--local_worker_num ... 3", "--worker_num ... 2"}},
      {{"--worker_num=2", "--worker_num=3", "true"}, {"--worker_num"}},
      {{"--master_port=0", "true"}, {"--master_port ... '0'", "1 to 65535"}},
      {{"--master_port=65536", "true"}, {"--master_port ... '65536'"}},
      {{"--master_port=65535", "true"}, {"--master_port ... 65535", "SYNCBN_PORT"}},
      {{"--master_port=http", "true"}, {"--master_port ... 'http'"}},
      {{"--master_addr=", "true"}, {"--master_addr"}},
      {{"--join=true", "true"}, {"--join ... 'true'", "True, False"}},
      {{"--join=1", "true"}, {"--join ... '1'"}},
      {{"--cluster_time_out=0", "true"}, {"--cluster_time_out ... '0'", "negative"}},
      {{"--cluster_time_out=1.5", "true"}, {"--cluster_time_out ... '1.5'"}},
      {{"--cluster_time_out=99999999999", "true"}, {"--cluster_time_out ... '99999999999'"}},
      {{"--tail_worker_log=8", "true"}, {"--tail_worker_log ... '8'", "0 to 7"}},
      {{"--tail_worker_log=0,,1", "true"}, {"--tail_worker_log ... '0,,1'"}},
      {{"--tail_worker_log=0,-1", "true"}, {"--tail_worker_log ... '0,-1'"}},
      {{"--tail_worker_log=a", "true"}, {"--tail_worker_log ... 'a'"}},
      {{"--worker_log_name=a/b", "true"}, {"--worker_log_name ... 'a/b'", "--log_dir"}},
      {{"--node_rank=-2", "true"}, {"--node_rank ... '-2'", "-1"}},
      {{"--node_rank=first", "true"}, {"--node_rank ... 'first'"}},
      {{"--max_restarts=-1", "true"}, {"--max_restarts ... '-1'", "0"}},
      {{"--sim_level=4", "true"}, {"--sim_level ... '4'", "-1 to 3"}},
      {{"--sim_level=0", "--sim_rank_id=8", "true"}, {"--sim_rank_id ... '8'", "-1 to 7"}},
      {{"--sim_rank_id=0", "true"}, {"--sim_rank_id ... 0", "--sim_level"}},
      {{"--sim_level=0", "--ms_scheduler=True", "true"}, {"--ms_scheduler ... True", "--sim_level ... 0"}},
      {{"--ms_scheduler=yes", "true"}, {"--ms_scheduler ... 'yes'", "True, False"}},
      {{"--check_rank_table", "/no/file", "--join=True"}, {"--check_rank_table", "option"}},
      {{"--check_rank_table=/no/file", "true"}, {"--check_rank_table", "task script"}},
      {{"--check_rank_table=/no/file"}, {"/no/file", "No such file"}},
      {{"--check_rank_table="}, {"''", "No such file"}},
      {{"--rank_table_file=/no/file", "true"}, {"--rank_table_file", "/no/file", "No such file"}},
      {{"--bind_numa=True", "true"}, {"'--bind_numa'"}},
      {{"--rdzv_endpoint=a", "true"}, {"'--rdzv_endpoint'; see"}},
      {{"--worker", "2", "true"}, {"'--worker' ... --worker_num?"}},
      {{"--wroker-nmu=2", "true"}, {"'--wroker-nmu' ... --worker_num?"}},
      {{"--local_workers=2", "true"}, {"'--local_workers' ... --local_worker_num?"}},
      {{"-np", "2", "true"}, {"'-np' ... -n?"}},
      {{"-x", "true"}, {"'-x';"}},
      {{"--master_port"}, {"--master_port"}},
      {{"--log_dir", "--join", "True", "true"}, {"--log_dir"}},
      {{}, {"task script"}},
      {{"/no/such/program"}, {"'/no/such/program'"}},
      {{"no-such-program"}, {"'no-such-program'", "PATH"}},
      {{"/no/such/script.py"}, {"'/no/such/script.py'"}},
      {{plain}, {plain, "not executable"}},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(fmt::format("syncbn-run {}", fmt::join(bad.options, " ")));
    Job& job = start(bad.options, {});
    EXPECT_EQ(job.wait(), kUsage);
    EXPECT_EQ(job.out(), "");
    EXPECT_EQ(lines_of(job.err()).size(), 1U) << job.err();
    for (const std::string& fact : bad.facts)
      EXPECT_TRUE(contains(job.err(), fact)) << fact << "\n" << job.err();
  }
}

TEST_F(OptionsTest, ABadSyncbnPortIsRefused) {
  for (const std::string port : {"0", "65536", "x", ""}) {
    Job& job = start(options(1), {"true"}, {{"SYNCBN_PORT", port}});
    EXPECT_EQ(job.wait(), kUsage);
    EXPECT_TRUE(contains(job.err(), fmt::format("SYNCBN_PORT ... '{}'", port))) << job.err();
  }
}

TEST_F(OptionsTest, HelpSaysEverythingOnce) {
  for (const char* switch_name : {"--help", "-h"}) {
    Job& job = start({switch_name}, {});
    EXPECT_EQ(job.wait(), 0);
    EXPECT_EQ(job.err(), "");
    for (const char* part : {"Usage:", "Examples", "Exit codes", "RANK_ID", "SYNCBN_STORE", "{ip}",
                             "{hostname}", "130, 143, 129", "124"})
      EXPECT_TRUE(contains(job.out(), part)) << part;
    for (const std::string& line : lines_of(job.out())) EXPECT_LE(line.size(), 120U) << line;
  }
}

// By name: what --help says of each option, its lines joined by blanks.
Variables options_of(const std::string& help) {
  Variables options;
  std::string name;
  bool in_table = false;
  for (const std::string& line : lines_of(help)) {
    if (line.empty() || line[0] != ' ') in_table = line == "Options";
    if (!in_table) continue;
    if (line.starts_with("  --")) {
      name = line.substr(2, line.find(' ', 2) - 2);
      EXPECT_FALSE(options.contains(name)) << name << " is there twice";
    }
    if (!name.empty()) options[name] += line.substr(line.find_first_not_of(' ')) + ' ';
  }
  return options;
}

TEST_F(OptionsTest, AreMsrunsWithItsDefaults) {
  // As MindSpore documents msrun: https://www.mindspore.cn/tutorials/en/r2.5.0/parallel/msrun_launcher.html
  const Variables msrun = {
      {"--worker_num", "8"},     {"--local_worker_num", "8"},   {"--master_addr", "127.0.0.1"},
      {"--master_port", "8118"}, {"--node_rank", "-1"},         {"--log_dir", ""},
      {"--join", "False"},       {"--cluster_time_out", "600"}, {"--bind_core", "False"},
      {"--sim_level", "-1"},     {"--sim_rank_id", "-1"},       {"--rank_table_file", ""},
      {"--worker_log_name", ""}, {"--tail_worker_log", "-1"}};
  const Variables ours = {{"--ms_scheduler", "False"},
                          {"--max_restarts", "0"},
                          {"--check_rank_table", ""},
                          {"--help", ""},
                          {"--version", ""}};
  Job& job = start({"--help"}, {});
  ASSERT_EQ(job.wait(), 0);
  // control: an option left out of option_table() fails here, and so does another default in Options.
  Variables found;
  for (const auto& [name, text] : options_of(job.out())) {
    const std::size_t at = text.rfind("Default ");
    found[name] = at == std::string::npos ? "" : text.substr(at + 8, text.rfind('.') - at - 8);
  }
  Variables expected = msrun;
  expected.insert(ours.begin(), ours.end());
  EXPECT_EQ(found, expected);
}

TEST_F(OptionsTest, HelpAndTheParserKnowTheSameOnes) {
  Job& help = start({"--help"}, {});
  ASSERT_EQ(help.wait(), 0);
  const Variables told = options_of(help.out());
  Strings in_table;  // all that the parser takes
  for (const OptionRow& option : option_table()) in_table.emplace_back(option.name);
  for (const std::string& name : in_table) EXPECT_TRUE(told.contains(name)) << name;
  EXPECT_EQ(told.size(), in_table.size());
  for (const auto& [name, text] : told) {
    if (name == "--help" || name == "--version") continue;
    Job& job = start({name}, {});
    EXPECT_EQ(job.wait(), kUsage);
    EXPECT_TRUE(contains(job.err(), name)) << job.err();
  }
  Job& control = start({"--worker_number", "2"}, {});
  EXPECT_EQ(control.wait(), kUsage);
  EXPECT_TRUE(contains(control.err(), "'--worker_number'")) << control.err();
}

TEST_F(OptionsTest, NodeRankMeansNothingOnASingleNode) {
  Strings with_node = options(2);
  with_node.push_back("--node_rank=3");
  Job& job = start_shell(with_node, "echo $RANK_ID");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0) + log(1), "0\n1\n");
}

TEST_F(OptionsTest, VersionsAreTheLibrarys) {
  Job& job = start({"--version"}, {});
  EXPECT_EQ(job.wait(), 0);
  EXPECT_EQ(job.out(), fmt::format("syncbn-run {}\nbits_version {}\n", SYNCBN_VERSION, kBitsVersion));
}

TEST_F(OptionsTest, APortInUseIsAnErrorAtOnce) {
  const int port = free_port();
  const int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(taken, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  for (const std::string join : {"True", "False"}) {
    SCOPED_TRACE("--join=" + join);
    Job& job = start({"--worker_num=1", "--local_worker_num=1", fmt::format("--master_port={}", port - 1),
                      "--log_dir=" + log_dir().string(), "--join", join},
                     {"bash", "-c", "touch $DIR/started"});
    EXPECT_EQ(job.wait(), kCannotStart) << "and does not wait 600 s for the port";
    EXPECT_TRUE(contains(job.err(), fmt::format("127.0.0.1:{}", port)) && contains(job.err(), "in use") &&
                contains(job.err(), "--master_port"))
        << job.err();
    EXPECT_FALSE(std::filesystem::exists(folder() / "started"));
  }
  close(taken);
  Job& job = start({"--worker_num=1", "--local_worker_num=1", fmt::format("--master_port={}", port - 1),
                    "--log_dir=" + log_dir().string(), "--join=True"},
                   {"true"});
  EXPECT_EQ(job.wait(), 0) << "control: the port is free now\n" << job.err();
}

TEST_F(OptionsTest, JobsWithoutAPortRunSideBySide) {
  // control: with the default ports for all jobs, the second one can't listen on 127.0.0.1:8119.
  std::vector<Job*> jobs;
  for (const std::string number : {"0", "1", "2"})
    jobs.push_back(&launch(command({"-n", "1", "--join=True", "--log_dir=" + (log_dir() / number).string()},
                                   {program("listen_at_master_port.py")}),
                           {{"JOB", number}}, "job" + number));
  for (const char* up : {"up0", "up1", "up2"}) EXPECT_TRUE(appears(up));
  write("go", "");
  std::set<int> ports;
  for (Job* job : jobs) {
    EXPECT_EQ(job->wait(), 0) << job->err();
    const int port = std::atoi(job->out().substr(4).c_str());
    ports.insert(port);
    EXPECT_EQ(job->out(), fmt::format("[0] {} 127.0.0.1:{}\n", port, port + 1));
  }
  EXPECT_EQ(ports.size(), 3U);
}

TEST_F(OptionsTest, JobsSideBySideHaveLogsOfTheirOwn) {
  // control: without reserve_logs() in main() the second job empties the logs of the first.
  const std::string script =
      "echo job $JOB; touch $DIR/up$JOB; until [ -e $DIR/go ]; do sleep 0.01; done; echo end $JOB";
  for (const std::string join : {"True", "False"}) {
    SCOPED_TRACE("--join=" + join);
    std::vector<Job*> jobs;
    for (const std::string number : {"0", "1"}) {
      jobs.push_back(&launch(
          command({"-n", "1", "--join=" + join, "--log_dir=" + log_dir().string()}, {"bash", "-c", script}),
          {{"JOB", number}}, "job" + number));
      ASSERT_TRUE(appears("up" + number)) << jobs.back()->err();
    }
    write("go", "");
    for (Job* job : jobs) EXPECT_EQ(job->wait(), 0) << job->err();
    EXPECT_TRUE(all_gone());
    EXPECT_EQ(log(0), "job 0\nend 0\n");
    EXPECT_EQ(read_file(log_dir() / "worker-2_0.log"), "job 1\nend 1\n");
    EXPECT_TRUE(contains(jobs[1]->err(), "this one writes worker-2_<rank>.log")) << jobs[1]->err();
    if (join == "True") {
      EXPECT_EQ(jobs[0]->out() + jobs[1]->out(), "[0] job 0\n[0] end 0\n[0] job 1\n[0] end 1\n");
    }
    for (const char* file : {"go", "up0", "up1"}) std::filesystem::remove(folder() / file);
  }
}

// Another job may take the ports between the attempts, so they need not be the same.
TEST_F(OptionsTest, ARestartTakesFreePorts) {
  Job& job = start_shell({"-n", "1", "--join=True", "--max_restarts=1", "--log_dir=" + log_dir().string()},
                         "[ $SYNCBN_STORE = 127.0.0.1:$((MASTER_PORT + 1)) ] && echo neighbours; "
                         "exit $((1 - SYNCBN_RESTART))");
  EXPECT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0), "neighbours\n");
  EXPECT_EQ(read_file(log_dir() / "worker_0.restart_1.log"), "neighbours\n");
}

TEST_F(OptionsTest, APlaceThatCannotBeUsedIsNamed) {
  Strings bad_address = options(1);
  bad_address.push_back("--master_addr=no-such-host.invalid");
  Job& unknown = start(bad_address, {"true"});
  EXPECT_EQ(unknown.wait(), kCannotStart);
  EXPECT_TRUE(contains(unknown.err(), "no-such-host.invalid")) << unknown.err();

  const std::string file = write("file", "").string();
  Strings bad_log_dir = options(1);
  bad_log_dir[3] = "--log_dir=" + file + "/log";
  Job& no_directory = start(bad_log_dir, {"true"});
  EXPECT_EQ(no_directory.wait(), kCannotStart);
  EXPECT_TRUE(contains(no_directory.err(), file)) << no_directory.err();

  std::filesystem::create_directories(log_dir() / "worker_1.log");
  Job& no_log = start_shell(options(2), "sleep 1000");
  EXPECT_EQ(no_log.wait(), kCannotStart);
  EXPECT_TRUE(contains(no_log.err(), "worker_1.log")) << no_log.err();
}

}  // namespace
}  // namespace syncbn::launch
