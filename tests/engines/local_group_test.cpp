// SPDX-License-Identifier: Apache-2.0
// A group finds out by itself whether its ranks can share memory: all of them do, or none.
#include "engines/local_group.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../counted_communicator.h"
#include "group/group.h"
#include "rank_processes.h"
#include "several_hosts.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using testing::CountedCommunicator;
using testing::RankProcesses;
using testing::sum_once;
using testing::WindowMemory;

constexpr milliseconds kPatience{30'000};

// Processes whose engine is a window of the test's own. Each runs `before`, finds out, and sums. Returns what
// it uses: "memory" or "engine".
class LocalGroupTest : public ::testing::Test {
 protected:
  using Before = std::function<void(int rank)>;
  static std::string use(Communicator& engine, std::unique_ptr<Communicator> group) {
    for (int round = 1; round < 10; ++round) {
      const std::string wrong = sum_once(*group, round, 1000, kPatience);
      if (!wrong.empty()) return wrong;
    }
    return group.get() == &engine ? "engine" : "memory";
  }
  static RankProcesses run(
      const WindowMemory& engines, const Before& before = [](int) {},
      const std::function<bool(int rank)>& allowed = [](int) { return true; }) {
    return {engines.shape().ranks, [&, before, allowed](int rank) {
              std::unique_ptr<Communicator> engine = engines.attach(rank);
              Communicator& seen = *engine;
              before(rank);
              return use(seen,
                         share_memory_of_hosts(std::move(engine), allowed(rank), Clock::now() + kPatience));
            }};
  }
  static void expect(RankProcesses& ranks, int size, const std::string& outcome) {
    for (int rank = 0; rank < size; ++rank) EXPECT_EQ(ranks.outcome(rank), outcome) << "rank " << rank;
  }
};

class LocalGroupOfSize : public LocalGroupTest, public ::testing::WithParamInterface<int> {};

TEST_P(LocalGroupOfSize, UsesMemory) {
  const WindowMemory engines({GetParam(), 5000});
  RankProcesses ranks = run(engines);
  expect(ranks, GetParam(), "memory");
}
INSTANTIATE_TEST_SUITE_P(Ranks, LocalGroupOfSize, ::testing::Values(2, 3, 8),
                         ::testing::PrintToStringParamName());

TEST_F(LocalGroupTest, OneRankMayNot) {
  for (const int forbidden : {0, 2}) {
    const WindowMemory engines({3, 5000});
    RankProcesses ranks = run(
        engines, [](int) {}, [&](int rank) { return rank != forbidden; });
    expect(ranks, 3, "engine");
  }
}

// Other containers of this machine are other hosts.
TEST_F(LocalGroupTest, OneRankInAnotherNetworkNamespace) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a network namespace";
  const WindowMemory engines({3, 5000});
  RankProcesses ranks = run(engines, [](int rank) {
    if (rank == 1 && unshare(CLONE_NEWNET) != 0) _exit(3);
  });
  expect(ranks, 3, "engine");
}

TEST_F(LocalGroupTest, OneRankOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  const WindowMemory engines({2, 5000});
  RankProcesses ranks = run(engines, [](int rank) {
    if (rank == 1 && setresuid(12345, 12345, 12345) != 0) _exit(3);
  });
  expect(ranks, 2, "engine");
}

// A user namespace in which this user has the same number, but is another one.
TEST_F(LocalGroupTest, OneRankInAnotherUserNamespace) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  const WindowMemory engines({2, 5000});
  RankProcesses ranks = run(engines, [](int rank) {
    if (rank != 1) return;
    const bool done = setresuid(12345, 12345, 12345) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0 &&
                      unshare(CLONE_NEWUSER) == 0 &&
                      (std::ofstream("/proc/self/uid_map") << "0 12345 1").flush().good();
    if (!done || geteuid() != 0) _exit(3);
  });
  const auto begin = Clock::now();
  const std::string outcome = ranks.outcome(1);
  if (outcome.empty()) GTEST_SKIP() << "this system makes no user namespace";
  EXPECT_EQ(outcome, "engine");
  EXPECT_EQ(ranks.outcome(0), "engine");
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(4)) << "expected no attempt to hand the memory over";
}

// One user seen from outside and from within a user namespace of his.
TEST_F(LocalGroupTest, OneRankInAUserNamespaceOfTheSameUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  const WindowMemory engines({2, 5000});
  RankProcesses ranks = run(engines, [](int rank) {
    const bool done = setresuid(12345, 12345, 12345) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0;
    if (!done) _exit(3);
    if (rank != 1) return;
    if (unshare(CLONE_NEWUSER) != 0 || !(std::ofstream("/proc/self/uid_map") << "0 12345 1").flush().good())
      _exit(3);
  });
  const std::string outcome = ranks.outcome(1);
  if (outcome.empty()) GTEST_SKIP() << "this system makes no user namespace";
  EXPECT_EQ(outcome, "memory");
  EXPECT_EQ(ranks.outcome(0), "memory");
}

// Namespaces of processes and mounts do not matter: no path is used, and locks tell who lives.
TEST_F(LocalGroupTest, OneRankInAnotherMountNamespace) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a mount namespace";
  const WindowMemory engines({2, 5000});
  RankProcesses ranks = run(engines, [](int rank) {
    if (rank == 1 && unshare(CLONE_NEWNS) != 0) _exit(3);
  });
  expect(ranks, 2, "memory");
}

// A rank without free descriptors: the leader then has no socket, a member no memory.
TEST_F(LocalGroupTest, OneRankWithoutDescriptors) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the undefined behaviour sanitizer needs descriptors itself";
#endif
  for (const int poor : {0, 1}) {
    const WindowMemory engines({2, 5000});
    RankProcesses ranks = run(engines, [&](int rank) {
      const int free = dup(0);
      const rlimit limit{static_cast<rlim_t>(free), static_cast<rlim_t>(free)};
      if (rank == poor && setrlimit(RLIMIT_NOFILE, &limit) != 0) _exit(3);
      close(free);
    });
    expect(ranks, 2, "engine");
  }
}

// Without the check of the limit the kernel ends the process.
TEST_F(LocalGroupTest, LeaderMayNotMakeLargeFiles) {
  const WindowMemory engines({3, 5000});
  RankProcesses ranks = run(engines, [](int rank) {
    const rlimit limit{1 << 20, 1 << 20};
    if (rank == 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(3);
  });
  const auto begin = Clock::now();
  expect(ranks, 3, "engine");
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(4))
      << "expected no wait for the memory that is not handed out";
}

// Ranks of one process could not tell each other's death by locks.
TEST_F(LocalGroupTest, TwoRanksOfOneProcess) {
  const WindowMemory engines({2, 5000});
  const auto rank = [&](int r) {
    return testing::outcome_of([&] {
      auto engine = std::make_unique<SharedWindow>(engines.memory(), engines.shape(), r);
      Communicator& seen = *engine;
      return use(seen, share_memory_of_hosts(std::move(engine), true, Clock::now() + kPatience));
    });
  };
  std::string other;
  std::thread thread([&] { other = rank(1); });
  EXPECT_EQ(rank(0), "engine");
  thread.join();
  EXPECT_EQ(other, "engine");
}

std::string messages_of_a_custom_engine(std::unique_ptr<Communicator> engine) {
  const int rank = engine->rank();
  int messages = 0;
  const auto group =
      make_group("own", std::make_unique<CountedCommunicator>(std::move(engine), messages), kPatience);
  for (std::int64_t round = 0; round < 10; ++round) {
    std::vector<std::int64_t> payload(20, rank + round);
    group->sum({"a sum", ""}, payload);
    if (payload != std::vector<std::int64_t>(20, 1 + 2 * round)) return "wrong sum";
  }
  return fmt::format("{} messages", messages);
}

// The versions, the table and the verdict are all that a custom engine carries. If a rank must not share
// memory, the engine carries the versions, the table and all sums.
TEST_F(LocalGroupTest, ACustomEngine) {
  for (const auto& [forbidden, expected] : {std::pair(-1, "3 messages"), std::pair(1, "12 messages")}) {
    const WindowMemory engines({2, 5000});
    RankProcesses ranks(2, [&, forbidden = forbidden](int rank) {
      setenv("SYNCBN_SHARED_MEMORY", rank == forbidden ? "0" : "1", 1);
      return messages_of_a_custom_engine(engines.attach(rank));
    });
    expect(ranks, 2, expected);
  }
}

// control: signal number 0 does no harm if the guard is missing.
TEST_F(LocalGroupTest, TheTestsSignalNoProcessThatHasEnded) {
  RankProcesses ranks(1, [](int) { return "done"; });
  ranks.signal(0, 0);
  EXPECT_EQ(ranks.outcome(0), "done");
  EXPECT_THROW(ranks.signal(0, 0), std::logic_error);
}

// A process of another user connects to every socket that it sees while a group finds out, sends a secret
// of its own, and takes what it is given. "" if that is nothing.
std::string loot_of_a_stranger(std::atomic<int>& connected) {
  if (setresuid(12345, 12345, 12345) != 0) return "setresuid";
  std::string line, name;
  for (const auto end = Clock::now() + kPatience; name.empty() && Clock::now() < end;) {
    std::ifstream sockets("/proc/net/unix");
    while (std::getline(sockets, line)) {
      const auto at = line.find("@syncbn-");
      if (at != std::string::npos) name = line.substr(at + 1);
    }
  }
  if (name.empty()) return "no socket";
  const base::Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::copy(name.begin(), name.end(), address.sun_path + 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) return "connect";
  const std::array<std::uint64_t, 2> guess{1, 2};
  if (send(socket.get(), guess.data(), sizeof guess, MSG_NOSIGNAL) != sizeof guess) return "send";
  connected = 1;
  const timeval patience{kPatience.count() / 1000, 0};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  char byte;
  const ssize_t got = recv(socket.get(), &byte, 1, 0);  // the memory comes with one byte
  return got == 0 || (got < 0 && errno == ECONNRESET) ? "" : fmt::format("{} bytes", got);
}

// A network namespace, or -1. The machine's processes and sockets are not seen in it, so it is another
// host.
int make_network() {
  int network = -1;
  std::thread([&network] {
    if (unshare(CLONE_NEWNET) == 0) network = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  }).join();
  return network;
}

// Brings its words to the table, the second message, only when `ready` is set. Another rank listens
// meanwhile.
class LateForTheTable final : public Communicator {
 public:
  LateForTheTable(std::unique_ptr<Communicator> engine, std::atomic<int>& ready)
      : engine_(std::move(engine)), ready_(ready) {}
  int rank() const override { return engine_->rank(); }
  int size() const override { return engine_->size(); }
  std::span<std::int64_t> buffer(std::size_t words) override { return engine_->buffer(words); }
  void start(std::size_t words) override {
    while (++messages_ == 2 && ready_ == 0) {
      --messages_;
      std::this_thread::sleep_for(milliseconds(1));
    }
    engine_->start(words);
  }
  void wait(Deadline deadline) override { engine_->wait(deadline); }
  void abort() noexcept override { engine_->abort(); }

 private:
  const std::unique_ptr<Communicator> engine_;
  std::atomic<int>& ready_;
  int messages_ = 0;
};

// Every communicator that make_group() is given takes this way, also inside PyTorch and MindSpore and on
// mpi4py. In a network namespace, so that the stranger sees the sockets of this group alone.
TEST_F(LocalGroupTest, AStrangerGetsNoMemoryOfACustomEngine) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a network namespace";
  const WindowMemory engines({2, 5000});
  std::atomic<int>& connected = testing::HostsBoard::make().flag;
  const int network = make_network();
  if (network < 0) GTEST_SKIP() << "this system makes no network namespace";
  RankProcesses ranks(3, [&](int rank) -> std::string {
    if (setns(network, CLONE_NEWNET) != 0) return "setns";
    if (rank == 2) return loot_of_a_stranger(connected);
    setenv("SYNCBN_SHARED_MEMORY", "1", 1);
    std::unique_ptr<Communicator> engine = engines.attach(rank);
    if (rank == 1) engine = std::make_unique<LateForTheTable>(std::move(engine), connected);
    return messages_of_a_custom_engine(std::move(engine));
  });
  close(network);
  EXPECT_EQ(ranks.outcome(2), "");
  for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(ranks.outcome(rank), "3 messages") << "rank " << rank;
}

// Ranks 2 and 3 are on another host. A rank that must not share, and leaders that can't connect, keep all
// from it.
TEST_F(LocalGroupTest, TwoHosts) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a network namespace";
  const int network = make_network();
  if (network < 0) GTEST_SKIP() << "this system makes no network namespace";
  struct Case {
    int forbidden;
    bool connects;
    std::string expected;
  };
  for (const Case& c :
       {Case{-1, true, "memory"}, {1, true, "engine"}, {2, true, "engine"}, {-1, false, "engine"}}) {
    const WindowMemory everyone({4, 5000}), leaders({2, 5000});
    testing::HostsBoard& board = testing::HostsBoard::make();
    RankProcesses ranks(4, [&](int rank) -> std::string {
      if (rank >= 2 && setns(network, CLONE_NEWNET) != 0) return "setns";
      auto connect = [&](const std::vector<int>& chosen) -> std::unique_ptr<MultiHostCommunicator> {
        if (chosen != std::vector{0, 2}) throw std::logic_error("wrong leaders");
        auto window = leaders.attach(rank / 2);
        if (!c.connects && rank == 2) return nullptr;
        return std::make_unique<testing::HostsEngine>(std::move(window), chosen, board, true);
      };
      std::unique_ptr<Communicator> engine = std::make_unique<testing::HostsEngine>(
          everyone.attach(rank), std::vector{0, 1, 2, 3}, board, true, connect);
      Communicator& seen = *engine;
      return use(seen,
                 share_memory_of_hosts(std::move(engine), rank != c.forbidden, Clock::now() + kPatience));
    });
    expect(ranks, 4, c.expected);
    // The versions, the table, the verdict, and then nine sums of the leaders alone.
    for (std::size_t rank = 0; rank < 4 && c.expected == "memory"; ++rank)
      EXPECT_EQ(board.messages[rank], rank % 2 == 0 ? 3 + 9 : 3) << "rank " << rank;
  }
  close(network);
}

// The window that was agreed on sees deaths.
TEST_F(LocalGroupTest, ADeathIsAnError) {
  const WindowMemory engines({2, 5000});
  RankProcesses ranks(2, [&](int rank) -> std::string {
    const auto group = share_memory_of_hosts(engines.attach(rank), true, Clock::now() + kPatience);
    sum_once(*group, 1, 10, kPatience);
    if (rank == 1) raise(SIGKILL);
    return sum_once(*group, 2, 10, kPatience);
  });
  EXPECT_EQ(ranks.outcome(0), "PeerError: connection closed by rank 1");
}

}  // namespace
}  // namespace syncbn::engines
