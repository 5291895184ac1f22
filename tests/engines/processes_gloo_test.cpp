// SPDX-License-Identifier: Apache-2.0

// Jobs of real processes on the Gloo engine, started as a hand or torchrun would.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "processes_child.h"
#include "rendezvous/socket.h"
#include "syncbn/error.h"

namespace syncbn::processes {
namespace {

using Clock = std::chrono::steady_clock;

class GlooJob : public ::testing::Test {
 protected:
  // The store is on SYNCBN_PORT: two free ports in a row are not to be had for sure.
  Variables variables(int rank, int size) const {
    return {{"RANK", std::to_string(rank)},
            {"WORLD_SIZE", std::to_string(size)},
            {"LOCAL_RANK", std::to_string(rank)},
            {"MASTER_ADDR", "127.0.0.1"},
            {"MASTER_PORT", std::to_string(ports_[0])},
            {"SYNCBN_PORT", std::to_string(ports_[1])},
            {"SYNCBN_TOKEN", "secret"},
            {"SYNCBN_TIMEOUT_S", "60"}};
  }
  // As msrun has it where the store is to hand the ranks out.
  Variables unnumbered(int size) const {
    return {{"MS_ROLE", "MS_WORKER"},
            {"MS_WORKER_NUM", std::to_string(size)},
            {"MS_SCHED_HOST", "127.0.0.1"},
            {"MS_SCHED_PORT", std::to_string(ports_[0])},
            {"SYNCBN_PORT", std::to_string(ports_[1])},
            {"SYNCBN_TIMEOUT_S", "30"}};
  }
  Child& start(const std::string& task, const Variables& variables) {
    return *workers_.emplace_back(
        std::make_unique<Child>(std::vector<std::string>{SYNCBN_WORKER, task}, variables));
  }
  // `changed` holds for all ranks.
  void start_all(const std::string& task, int size, const Variables& changed = {}) {
    for (int rank = 0; rank < size; ++rank) {
      Variables all = variables(rank, size);
      for (const auto& [name, value] : changed) all[name] = value;
      start(task, all);
    }
  }
  void let_go() {
    for (const auto& worker : workers_) worker->close_input();
  }
  void expect_ends(const std::string& fact) {
    for (const auto& worker : workers_) {
      EXPECT_TRUE(worker->shows(fact)) << "expected '" << fact << "' of " << all_output();
    }
    let_go();
    for (const auto& worker : workers_) EXPECT_EQ(worker->wait(), "exit 0") << all_output();
  }
  std::string all_output() const {
    std::string text;
    for (const auto& worker : workers_)
      text += fmt::format("--- process {}\n{}", worker->pid(), worker->output());
    return text;
  }

  const std::vector<int> ports_ = free_ports(2);
  std::vector<std::unique_ptr<Child>> workers_;
};

// Jobs whose ranks, all on this host, sum in shared memory, and jobs whose ranks sum over their connections.
class GlooJobOver : public GlooJob, public ::testing::WithParamInterface<const char*> {
 protected:
  void start_all(const std::string& task, int size, Variables changed = {}) {
    changed["SYNCBN_SHARED_MEMORY"] = GetParam();
    GlooJob::start_all(task, size, changed);
  }
};
INSTANTIATE_TEST_SUITE_P(Way, GlooJobOver, ::testing::Values("1", "0"), [](const auto& way) {
  return std::string(way.param) == "1" ? "shared_memory" : "connections";
});

class GlooJobOfSize : public GlooJob, public ::testing::WithParamInterface<int> {};

TEST_P(GlooJobOfSize, SumsAreRight) {
  start_all("sums", GetParam());
  expect_ends("sums are right");
  for (std::size_t rank = 0; rank < workers_.size(); ++rank) {
    const std::string line = fmt::format("rank {}: of {}, sums are right, local rank {} of {}", rank,
                                         GetParam(), rank, GetParam());
    EXPECT_TRUE(workers_[rank]->shows(line)) << line << " of " << all_output();
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, GlooJobOfSize, ::testing::Values(2, 3, 5), testing::PrintToStringParamName());

TEST_F(GlooJob, StoreIsAboveTheMasterPortByDefault) {
  for (int rank = 0; rank < 2; ++rank) {
    Variables changed = variables(rank, 2);
    changed.erase("SYNCBN_PORT");
    changed["MASTER_PORT"] = std::to_string(ports_[1] - 1);
    start("sums", changed);
  }
  expect_ends("sums are right");
}

TEST_P(GlooJobOver, TwoGroupsAtOnce) {
  start_all("two_groups_at_once", 2);
  expect_ends("two groups are right");
}

TEST_F(GlooJob, TwoGroupsInTurn) {
  start_all("two_groups_in_turn", 3);
  expect_ends("two groups are right");
}

// control: with one key space for all worlds of a store, a rank meets the addresses of the last world and
// times out.
TEST_P(GlooJobOver, LeavesAndJoinsAgain) {
  start_all("join_again", 3);
  expect_ends("joined three times");
}

// control: without Group::abandon the fork's end waits for ever; without inherited() in Group::run its sum is
// the parent's, or a PeerError.
TEST_P(GlooJobOver, AForkLeavesTheGroupAlone) {
  start_all("fork_after_use", 2,
            {{"ASAN_OPTIONS", "detect_leaks=0"}});  // what a fork can't use it leaves alone
  for (const char* text : {"its fork ended with 5", "its fork ended with 6"})
    for (const auto& worker : workers_) EXPECT_TRUE(worker->shows(text)) << all_output();
  expect_ends("sums are right after both");
}

TEST_P(GlooJobOver, DifferentCallIsAMismatchOnEveryRank) {
  start_all("different_counts", 3);
  expect_ends("MismatchError on rank");
}

TEST_F(GlooJob, DifferentListsAreAMismatch) {
  start_all("different_lists", 2);
  expect_ends("MismatchError on rank");
}

// Nothing but the connection tells of the death: the deadline is longer than anybody waits here.
// control: where wait() does not look at the connections, nobody is named and the test fails.
TEST_P(GlooJobOver, KilledPeerIsAPeerErrorAtOnce) {
  start_all("sum_for_ever", 3, {{"SYNCBN_TIMEOUT_S", "600"}});
  for (const auto& worker : workers_) ASSERT_TRUE(worker->shows("ready")) << all_output();
  workers_[2]->signal(SIGKILL);
  for (const std::size_t rank : {0u, 1u}) {
    EXPECT_TRUE(workers_[rank]->shows("PeerError on rank ... closed ... rank 2")) << all_output();
  }
  let_go();
  EXPECT_EQ(workers_[0]->wait(), "exit 0");
  EXPECT_EQ(workers_[1]->wait(), "exit 0");
  EXPECT_EQ(workers_[2]->wait(), "signal 9");
}

// A rank that leaves in good order is not taken for a dead one, and nobody waits for its call either.
// control: without farewells the others say "connection closed".
TEST_P(GlooJobOver, PeerThatLeavesIsNamed) {
  start_all("last_leaves", 3);
  for (const std::size_t rank : {0u, 1u}) {
    EXPECT_TRUE(workers_[rank]->shows("left ... rank 2")) << all_output();
  }
  let_go();
  for (const auto& worker : workers_) EXPECT_EQ(worker->wait(), "exit 0") << all_output();
}

// control: where ~JointCall waits for its sum, the others get theirs.
TEST_P(GlooJobOver, PeerThatDropsACallIsNamed) {
  start_all("last_drops_a_call", 3);
  for (const std::size_t rank : {0u, 1u})
    EXPECT_TRUE(workers_[rank]->shows("PeerError ... rank 2"))
        << all_output();  // "a sum was given up", or "left"
  EXPECT_TRUE(workers_[2]->shows("dropped a call")) << all_output();
  let_go();
  for (const auto& worker : workers_) EXPECT_EQ(worker->wait(), "exit 0") << all_output();
}

// The waiting ranks know through the store who else waits. It stops between two sums: within one it might
// leave the others in different ones.
TEST_P(GlooJobOver, StoppedPeerIsATimeoutThatNamesIt) {
  start_all("last_stops_itself", 3, kShortCalls);
  for (const std::size_t rank : {0u, 1u}) {
    EXPECT_TRUE(workers_[rank]->shows("TimeoutError on rank ... rank 2")) << all_output();
  }
  workers_[2]->signal(SIGKILL);
  let_go();
  EXPECT_EQ(workers_[0]->wait(), "exit 0");
  EXPECT_EQ(workers_[1]->wait(), "exit 0");
}

TEST_P(GlooJobOver, RankThatNeverCallsIsATimeout) {
  start_all("last_does_not_call", 2, kShortCalls);
  EXPECT_TRUE(workers_[0]->shows("TimeoutError on rank 0 ... SYNCBN_TIMEOUT_S")) << all_output();
  let_go();
  for (const auto& worker : workers_) EXPECT_EQ(worker->wait(), "exit 0") << all_output();
}

// control: a server that takes every token fails here, for two processes then claim rank 1.
TEST_F(GlooJob, WrongTokenIsRefused) {
  Variables intruder = variables(1, 2);
  intruder["SYNCBN_TOKEN"] = "guess";
  start("sums", variables(0, 2));
  Child& refused = start("sums", intruder);
  EXPECT_TRUE(refused.shows("PeerError on rank -1 ... token")) << all_output();
  Child& member = start("sums", variables(1, 2));  // and the job is none the worse for it
  EXPECT_TRUE(workers_[0]->shows("sums are right")) << all_output();
  EXPECT_TRUE(member.shows("sums are right")) << all_output();
  let_go();
  for (const auto& worker : workers_) EXPECT_EQ(worker->wait(), "exit 0") << all_output();
}

TEST_F(GlooJob, RankTakenTwiceIsRefused) {
  start("sum_for_ever", variables(0, 2));
  start("sum_for_ever", variables(1, 2));
  for (const auto& worker : workers_) ASSERT_TRUE(worker->shows("ready")) << all_output();
  Child& second = start("sums", variables(1, 2));
  EXPECT_TRUE(second.shows(fmt::format("GroupError on rank -1 ... process {}", workers_[1]->pid())))
      << all_output();
  for (const std::size_t rank : {0u, 1u}) EXPECT_FALSE(workers_[rank]->has_ended()) << all_output();
}

// It was started for a larger world; the job that it found has no place for it and goes on.
TEST_F(GlooJob, SurplusRankIsRefused) {
  start("sum_for_ever", variables(0, 2));
  start("sum_for_ever", variables(1, 2));
  for (const auto& worker : workers_) ASSERT_TRUE(worker->shows("ready")) << all_output();
  Child& surplus = start("sums", variables(2, 3));
  EXPECT_TRUE(surplus.shows("GroupError on rank -1 ... rank 0 ... 2 ranks ... rank 2 ... 3")) << all_output();
  Child& none = start("sums", variables(2, 2));
  EXPECT_TRUE(none.shows("GroupError on rank -1 ... RANK")) << all_output();
  for (const std::size_t rank : {0u, 1u}) EXPECT_FALSE(workers_[rank]->has_ended()) << all_output();
}

TEST_F(GlooJob, WorldsOfDifferentSizesAreRefused) {
  start("sums", variables(0, 2));
  start("sums", variables(1, 3));
  expect_ends("GroupError on rank -1");
}

TEST_F(GlooJob, MissingRanksAreNamed) {
  for (const int rank : {0, 2}) {
    Variables impatient = variables(rank, 4);
    impatient["SYNCBN_TIMEOUT_S"] = "5";  // both must be there by then
    start("sums", impatient);
  }
  expect_ends("TimeoutError ... 5 s (SYNCBN_TIMEOUT_S) ... ranks 1, 3 of 4");
}

TEST_F(GlooJob, APortInUseIsNamedByItsVariable) {
  const base::Fd listener = rendezvous::listen_on("127.0.0.1", 0);
  const std::string port = std::to_string(rendezvous::local_port(listener.get()));
  Variables changed = variables(0, 2);
  changed["SYNCBN_PORT"] = port;
  start("sums", changed);
  changed.erase("SYNCBN_PORT");
  changed["MASTER_PORT"] = std::to_string(std::stoi(port) - 1);
  start("sums", changed);
  expect_ends("GroupError ... 127.0.0.1:" + port + " ... in use");
  EXPECT_TRUE(workers_[0]->shows("SYNCBN_PORT"));
  EXPECT_EQ(workers_[0]->output().find("MASTER_PORT"), std::string::npos);  // control
  EXPECT_TRUE(workers_[1]->shows("MASTER_PORT + 1, or SYNCBN_PORT"));
}

// All waits at the same time, because each takes ten seconds.
//
// control: without tell_long_wait() in check_interrupt() nothing is said; without kNameTime and without the
// catch of TimeoutError in TcpStore's constructor the last two ranks wait for a minute.
TEST_F(GlooJob, WaitsOfTenSecondsAreTold) {
  const auto at = [&](int port, int rank, int size, Variables more = {}) {
    Variables all = variables(rank, size);
    all["SYNCBN_PORT"] = std::to_string(port);
    for (const auto& [name, value] : more) all[name] = value;
    return all;
  };
  const std::vector<int> ports = free_ports(3);
  const auto limit = [](int port, const std::string& whom, const std::string& setting) {
    return fmt::format("waits at 127.0.0.1:{} for {}, until ... of 60 s ({})", port, whom, setting);
  };
  Child& alone = start("sums", at(ports[0], 1, 2));
  Child& silent = start("sums", at(ports[0], 1, 2, {{"SYNCBN_LOG", "error"}}));
  Child& first = start("sums", at(ports[1], 0, 4, {{"MS_TOPO_TIMEOUT", "60"}}));
  start("sums", at(ports[1], 2, 4));
  Child& member = start("last_does_not_connect", at(ports[2], 0, 2));
  Child& missing = start("last_does_not_connect", at(ports[2], 1, 2, {{"SYNCBN_LOG", "info"}}));
  Child& misled = start("sums", at(ports[0], 1, 2, {{"MASTER_ADDR", "no-such-host.invalid"}}));
  const base::Fd listener = rendezvous::listen_on("127.0.0.1", 0);
  Child& stranger = start("sums", at(rendezvous::local_port(listener.get()), 1, 2));
  EXPECT_TRUE(missing.shows("syncbn: rank 1 of 2 waited ... s to join the world"));
  EXPECT_TRUE(alone.shows("syncbn: rank 1 of 2 " +
                          limit(ports[0], "an answer (Connection refused)", "SYNCBN_TIMEOUT_S")));
  EXPECT_TRUE(
      first.shows("syncbn: rank 0 of 4 " + limit(ports[1], "ranks 1, 3 to call init()", "MS_TOPO_TIMEOUT")));
  EXPECT_TRUE(
      member.shows("syncbn: rank 0 of 2 " + limit(ports[2], "world rank 1 of [0, 1]", "SYNCBN_TIMEOUT_S")));
  EXPECT_TRUE(misled.shows("GroupError ... 'no-such-host.invalid'"));
  EXPECT_TRUE(stranger.shows("PeerError ... no answer of a syncbn store within 10 s"));
  EXPECT_EQ(silent.output().find("waits"), std::string::npos);
  for (const Child* told : {&alone, &first, &member})  // control: each line once
    EXPECT_EQ(told->output().find("waits"), told->output().rfind("waits")) << told->output();
}

// msrun without RANK_ID: the first process to take the port serves, and the store hands the ranks out.
TEST_F(GlooJob, RanksAreHandedOut) {
  for (int i = 0; i < 3; ++i) start("sums", unnumbered(3));
  expect_ends("sums are right");
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_NE(all_output().find(fmt::format("rank {}: of 3", rank)), std::string::npos) << all_output();
}

// Somebody else's connection has the port, whose number the system gave it.
//
// control: without is_served() nobody serves, and the job ends with a TimeoutError.
TEST_F(GlooJob, RanksAreHandedOutOnceThePortIsFree) {
  const int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(ports_[1]));
  ASSERT_EQ(bind(other, reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << std::strerror(errno);
  for (int i = 0; i < 2; ++i) start("sums", unnumbered(2));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // both have found it taken
  close(other);
  expect_ends("sums are right");
}

TEST_F(GlooJob, WhenAllRanksAreHandedOutTheNextIsRefused) {
  for (int i = 0; i < 2; ++i) start("sum_for_ever", unnumbered(2));
  for (const auto& worker : workers_) ASSERT_TRUE(worker->shows("ready")) << all_output();
  Child& surplus = start("sums", unnumbered(2));
  EXPECT_TRUE(surplus.shows(fmt::format("GroupError ... 2 ranks ... 127.0.0.1:{}", ports_[1])))
      << all_output();
  for (const std::size_t i : {0u, 1u}) EXPECT_FALSE(workers_[i]->has_ended()) << all_output();
}

// As above, but MindSpore's init() came first and put the ranks that it found into RANK_ID.
TEST_F(GlooJob, RanksThatMindSporeFoundAreKept) {
  for (int rank = 2; rank >= 0; --rank) {
    Variables numbered = unnumbered(3);
    numbered["RANK_ID"] = std::to_string(rank);
    start("sums", numbered);
  }
  expect_ends("sums are right");
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(workers_[i]->shows(fmt::format("rank {}: of 3", 2 - i))) << all_output();
}

TEST_F(GlooJob, GarbageConnectionsWhileItStartsDoNoHarm) {
  std::atomic<bool> over{false};
  std::atomic<int> connections{0};
  std::thread stranger([&] {
    std::mt19937 random(7);
    std::vector<base::Fd> silent;
    while (!over) {
      try {
        base::Fd socket =
            rendezvous::connect_to("127.0.0.1", ports_[1], Clock::now() + std::chrono::milliseconds(100));
        std::string bytes(random() % 300, '\0');
        for (char& byte : bytes) byte = static_cast<char>(random());
        rendezvous::send_all(socket.get(), bytes, Clock::now() + std::chrono::seconds(1));
        if (random() % 4 == 0 && silent.size() < 100) silent.push_back(std::move(socket));
        ++connections;
      } catch (const Error&) {  // the store is not there yet, or was faster
      }
    }
  });
  start_all("sums", 3);
  EXPECT_TRUE(workers_[0]->shows("sums are right")) << all_output();
  over = true;
  stranger.join();
  expect_ends("sums are right");
  EXPECT_GT(connections, 0);
}

// More connections than the serving process has descriptors for, none of which says a word.
// control: where the store bounds nothing, the ranks behind them wait in vain for an answer to their hello.
TEST_F(GlooJob, AFloodOfSilentConnectionsBeforeItStartsDoesNoHarm) {
  constexpr rlimit kDescriptors = {340, 340};
  constexpr int kSilent = 900;
  Child& serving = start("sums", variables(0, 3));
  ASSERT_EQ(prlimit(serving.pid(), RLIMIT_NOFILE, &kDescriptors, nullptr), 0);
  std::vector<base::Fd> silent;
  for (int i = 0; i < kSilent; ++i)
    silent.push_back(rendezvous::connect_to("127.0.0.1", ports_[1], Clock::now() + kPatience));
  for (int rank = 1; rank < 3; ++rank) start("sums", variables(rank, 3));
  expect_ends("sums are right");
}

// A stray connection to a socket on which Gloo waits for a peer spoils an attempt to connect.
// control: where connect() has a single attempt, the test fails with "not connected".
class GlooJobWithStranger : public GlooJob, public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(WhoSends, GlooJobWithStranger,
                         ::testing::Values("nothing", "http", "noise", "zeros"),
                         [](const auto& bytes) { return bytes.param; });

TEST_P(GlooJobWithStranger, CostsAnAttemptOnly) {
  Variables bytes;
  if (GetParam() != "nothing") bytes["SYNCBN_TEST_BYTES"] = GetParam();
  start_all("stranger_connects", 3, bytes);
  expect_ends("sums are right");
  EXPECT_TRUE(workers_[1]->shows("with 1 strangers, 0 sockets listen")) << all_output();
}

}  // namespace
}  // namespace syncbn::processes
