// SPDX-License-Identifier: Apache-2.0

// --bind_core: which cores the workers run on, on machines of one core and more.
#include "launch/cores.h"

#include <fmt/core.h>
#include <sched.h>

#include "base/rank_list.h"
#include "job.h"
#include "launch/exit_codes.h"

namespace syncbn::launch {
namespace {

using CoresTest = JobTest;

// What the worker's kernel says, "0-1,4", and the threads it may use.
const std::string kShowCores =
    "sed -n 's/^Cpus_allowed_list:\\t//p' /proc/self/status; echo $SYNCBN_NUM_THREADS";

Strings bound(Strings options, const std::string& binding) {
  options.push_back("--bind_core=" + binding);
  return options;
}

std::string kernel_list(const std::vector<int>& cores) {
  std::string text = base::ranges(cores);
  std::erase(text, ' ');
  return text;
}

TEST(Cores, AreReadFromJson) {
  const CoreBinding binding = parse_bind_core(
      R"({"device0": ["0-3", " 5", "7, 9-10"], "device12": ["2", "1-2"], "scheduler": ["8"]})");
  EXPECT_FALSE(binding.even);
  const std::map<std::string, std::vector<int>> expected = {
      {"device0", {0, 1, 2, 3, 5, 7, 9, 10}}, {"device12", {1, 2}}, {"scheduler", {8}}};
  EXPECT_EQ(binding.chosen, expected);
  EXPECT_TRUE(parse_bind_core("True").even);
  EXPECT_FALSE(parse_bind_core("False").even);
  EXPECT_TRUE(parse_bind_core("{}").chosen.empty());
}

TEST(Cores, OfBadFormAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "--bind_core is ''"},
      {"true", "True, False, or JSON"},
      {"1", "--bind_core is '1'"},
      {"[0]", "--bind_core is '[0]'"},
      {R"({"device0": ["0"])", "or JSON such as"},
      {R"({"worker0": ["0"]})", "key 'worker0'"},
      {R"({"device": ["0"]})", "key 'device'"},
      {R"({"device00": ["0"]})", "key 'device00'"},
      {R"({"device0": "0-3"})", "device0 ... \"0-3\""},
      {R"({"device0": []})", "device0 ... []"},
      {R"({"device0": [0]})", "device0 ... 0"},
      {R"({"device0": ["3-1"]})", "device0 ... \"3-1\""},
      {R"({"device0": ["0-"]})", "device0 ... \"0-\""},
      {R"({"device0": ["-1"]})", "device0 ... \"-1\""},
      {R"({"device0": ["0,,1"]})", "device0 ... \"0,,1\""},
      {R"({"device0": ["0-99999999"]})", "device0 ... \"0-99999999\""},
      {R"({"device0": [""]})", "device0 ... \"\""},
  };
  for (const auto& [text, message] : cases) {
    try {
      parse_bind_core(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const UsageError& error) {
      EXPECT_TRUE(contains(error.what(), message)) << text << ": " << error.what();
    }
  }
}

TEST(Cores, AreSplitIntoNeighbours) {
  EXPECT_EQ(split_evenly({0, 1, 2, 3, 8, 9, 10}, 3),
            (std::vector<std::vector<int>>{{0, 1}, {2, 3}, {8, 9, 10}}));
  EXPECT_EQ(split_evenly({4, 5}, 2), (std::vector<std::vector<int>>{{4}, {5}}));
  EXPECT_EQ(base::ranges({0, 1, 2, 8, 10, 11}), "0-2, 8, 10-11");
  EXPECT_EQ(base::ranges({}), "");
}

TEST_F(CoresTest, EachWorkerHasItsShare) {
  // control: without ScopedAffinity in start_worker both workers see all cores.
  const std::vector<int> usable = usable_cores();
  if (usable.size() < 2) GTEST_SKIP() << "this machine has one usable core";
  const auto shares = split_evenly(usable, 2);
  Job& job = start_shell(bound(options(2), "True"), kShowCores);
  ASSERT_EQ(job.wait(), 0) << job.err();
  for (const int rank : {0, 1}) {
    const auto& share = shares[static_cast<std::size_t>(rank)];
    EXPECT_EQ(log(rank), fmt::format("{}\n{}\n", kernel_list(share), share.size()));
  }
  Job& unbound = start_shell(options(2), kShowCores);
  ASSERT_EQ(unbound.wait(), 0) << unbound.err();
  EXPECT_EQ(log(1), fmt::format("{}\n\n", kernel_list(usable)))
      << "control: all cores where nothing is bound";
}

TEST_F(CoresTest, OnlyThoseOfTheLaunchersOwnAreSplit) {
  const std::vector<int> usable = usable_cores();
  const ScopedAffinity last({usable.back()});  // as in a container that has one core
  Job& job = start_shell(bound(options(1), "True"), kShowCores);
  ASSERT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0), fmt::format("{}\n1\n", usable.back()));
}

TEST_F(CoresTest, FewerThanWorkersBindNothingAndSaySo) {
  const ScopedAffinity one({usable_cores().front()});
  Job& job = start_shell(bound(options(2), "True"), kShowCores);
  ASSERT_EQ(job.wait(), 0) << job.err();
  EXPECT_TRUE(contains(job.err(), "1 cores ... 2 workers")) << job.err();
  EXPECT_EQ(log(1), fmt::format("{}\n\n", usable_cores().front()));
}

TEST_F(CoresTest, AreChosenByDevice) {
  const std::vector<int> usable = usable_cores();
  const std::string binding =
      fmt::format(R"({{"device1": ["{}"], "scheduler": ["{}"]}})", usable.back(), usable.front());
  Job& job = start_shell(bound(options(2), binding), kShowCores);
  ASSERT_EQ(job.wait(), 0) << job.err();
  EXPECT_EQ(log(0), fmt::format("{}\n\n", kernel_list(usable))) << "no entry, no binding";
  EXPECT_EQ(log(1), fmt::format("{}\n1\n", usable.back()));
}

TEST_F(CoresTest, ThreadsThatWereChosenStay) {
  for (const std::string name : {"SYNCBN_NUM_THREADS", "OMP_NUM_THREADS"}) {
    Job& job =
        start_shell(bound(options(1), "True"), "echo $SYNCBN_NUM_THREADS $OMP_NUM_THREADS", {{name, "7"}});
    ASSERT_EQ(job.wait(), 0) << job.err();
    EXPECT_EQ(log(0), "7\n") << name;
  }
}

TEST_F(CoresTest, ThatAreNotThereAreNamed) {
  const std::vector<int> usable = usable_cores();
  const int absent = usable.back() + 1;
  const std::vector<std::pair<std::string, Strings>> cases = {
      {fmt::format(R"({{"device1": ["{}-{}"]}})", usable.back(), absent),
       {"device1", fmt::format("core {}", absent), base::ranges(usable)}},
      {fmt::format(R"({{"device2": ["{}"]}})", usable.front()), {"device2", "device0, device1, scheduler"}},
      {fmt::format(R"({{"scheduler": ["{}"]}})", absent), {"scheduler", fmt::format("core {}", absent)}}};
  for (const auto& [binding, parts] : cases) {
    Job& job = start(bound(options(2), binding), {"true"});
    EXPECT_EQ(job.wait(), kUsage) << binding;
    for (const std::string& part : parts) EXPECT_TRUE(contains(job.err(), part)) << part << "\n" << job.err();
  }
}

}  // namespace
}  // namespace syncbn::launch
