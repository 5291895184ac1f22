// SPDX-License-Identifier: Apache-2.0

// Hostile clients of a real StoreServer, on plain sockets.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "../outcome.h"
#include "rendezvous/socket.h"
#include "rendezvous/store_server.h"
#include "rendezvous/store_wire.h"
#include "rendezvous/tcp_store.h"
#include "syncbn/error.h"

namespace syncbn::rendezvous {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kPatience{60};  // for what takes milliseconds on an idle machine

Deadline soon() { return Clock::now() + kPatience; }

const std::string kGreeting = wire::encode({1, wire::Operation::hello, wire::kHello, "token"});

base::Fd stranger(const StoreServer& server) { return connect_to("127.0.0.1", server.port(), soon()); }

TcpStore client(const StoreServer& server) { return {"127.0.0.1", server.port(), "token", soon()}; }

void expect_service(const StoreServer& server) {
  TcpStore store = client(server);
  store.set("still", "here");
  EXPECT_EQ(store.get("still", soon()), "here");
}

// The next reply's value.
std::string read_reply(const base::Fd& socket, std::string& bytes, std::uint32_t number) {
  for (;;) {
    const auto size = wire::body_size(bytes);
    if (size && bytes.size() >= 4 + *size) {
      const auto reply = wire::decode_reply(std::string_view(bytes).substr(4, *size));
      EXPECT_TRUE(reply && reply->number == number && reply->status == wire::Status::done);
      const std::string value(reply ? reply->value : "");
      bytes.erase(0, 4 + *size);
      return value;
    }
    recv_some(socket.get(), bytes, soon());
  }
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

// As few descriptors as a process usually has.
class UsualDescriptors {
 public:
  UsualDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    rlimit usual = before_;
    usual.rlim_cur = std::min<rlim_t>(1024, before_.rlim_max);
    setrlimit(RLIMIT_NOFILE, &usual);
  }
  ~UsualDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
  UsualDescriptors(const UsualDescriptors&) = delete;
  UsualDescriptors& operator=(const UsualDescriptors&) = delete;

 private:
  rlimit before_{};
};

TEST(HostileClient, TheOldestStrangerGoes) {
  const StoreServer server("127.0.0.1", 0, "token", {.unauthenticated = 4});
  TcpStore member = client(server);  // no stranger, however old
  std::vector<base::Fd> strangers;
  for (int i = 0; i < 7; ++i) strangers.push_back(stranger(server));
  for (int i = 0; i < 3; ++i) {
    std::string bytes;
    EXPECT_THROW(recv_some(strangers[static_cast<std::size_t>(i)].get(), bytes, soon()), ConnectionLost);
  }
  for (std::size_t i = 3; i < strangers.size(); ++i) {
    SCOPED_TRACE(i);
    std::string bytes;
    send_all(strangers[i].get(), kGreeting, soon());
    EXPECT_EQ(read_reply(strangers[i], bytes, 1), "");
  }
  EXPECT_EQ(member.add("counter", 1), 1);
}

// control: without the look at the number of members in StoreProtocol::greet the third one is served.
TEST(HostileClient, MoreMembersThanTheJobHasAreRefused) {
  const StoreServer server("127.0.0.1", 0, "token", {.members = 2});
  auto first = std::make_unique<TcpStore>("127.0.0.1", server.port(), "token", soon());
  TcpStore second = client(server);
  for (int i = 0; i < 3; ++i) {
    try {
      client(server);
      FAIL() << "a third member is served";
    } catch (const StoreFull& error) {
      EXPECT_TRUE(syncbn::testing::tells(error.what(), "full ... connections")) << error.what();
    }
  }
  first.reset();
  const Deadline deadline = soon();
  TcpStore third = [&] {  // the server may not have seen yet that the first is gone
    for (;;) {
      try {
        return client(server);
      } catch (const StoreFull&) {
        if (Clock::now() >= deadline) throw;
        std::this_thread::sleep_for(milliseconds(5));
      }
    }
  }();
  EXPECT_EQ(third.add("counter", 1), 1);
  EXPECT_EQ(second.add("counter", 1), 2);
}

// More silent connections than the process has descriptors for, the last 600 of them held open, while ranks
// come.
// control: without a bound on strangers the server takes the last descriptor, and the ranks find none left.
TEST(HostileClient, AFloodOfStrangersKeepsNoRankOut) {
  const UsualDescriptors limited;
  const StoreServer server("127.0.0.1", 0, "token");
  TcpStore member = client(server);
  constexpr std::size_t kHeld = 600, kAll = 1500;
  std::atomic<std::size_t> opened{0};
  std::atomic<bool> over{false};
  std::string failure;
  std::thread flood([&] {
    std::vector<base::Fd> held(kHeld);
    try {
      while (!over || opened < kAll) {
        held[opened % kHeld] = stranger(server);
        ++opened;
      }
    } catch (const std::exception& error) {
      failure = error.what();
    }
    over = true;
  });
  const auto deadline = soon();
  std::int64_t joins = 0;
  try {
    for (; joins < 20 || (opened < kAll && !over && Clock::now() < deadline); ++joins)
      EXPECT_EQ(client(server).add("joined", 1), joins + 1);
    EXPECT_EQ(member.add("joined", 0), joins);
  } catch (const std::exception& error) {
    ADD_FAILURE() << "join " << joins << " after " << opened << " strangers: " << error.what();
  }
  over = true;
  flood.join();
  EXPECT_EQ(failure, "");
  EXPECT_GE(opened, kAll);
}

// 8 clients ask for 512 MB and read nothing.
// control: where serve() answers all that it has read, the process grows by all of it.
TEST(HostileClient, WhoReadsNothingFillsNoMemory) {
  constexpr int kClients = 8;
  constexpr std::uint32_t kRequests = 64;
  constexpr std::size_t kBound = std::size_t{160}
                                 << 20;  // 8 x (an answer and the room of a request), sanitizers
  const StoreServer server("127.0.0.1", 0, "token");
  client(server).set("big", std::string(wire::kMaxContent - 3, 'x'));
  std::string requests = kGreeting;
  for (std::uint32_t i = 0; i < kRequests; ++i)
    requests += wire::encode({2 + i, wire::Operation::get, "big", {}});
  const std::size_t before = resident_bytes();
  std::vector<base::Fd> deaf;
  for (int i = 0; i < kClients; ++i) {
    deaf.push_back(stranger(server));
    send_all(deaf.back().get(), requests, soon());
  }
  // Each request here comes after a look at all that the deaf ones sent.
  TcpStore store = client(server);
  for (std::uint32_t i = 0; i < 2 * kRequests; ++i) store.add("counter", 1);
  const std::size_t after = resident_bytes();
  EXPECT_LT(after - std::min(before, after), kBound);
  EXPECT_EQ(store.get("big", soon()).size(), wire::kMaxContent - 3);
}

// What was asked in one go is answered to the end, though nothing more comes to wake the server.
// control: a server that waits for input while requests are unanswered sends the first answers only.
TEST(HostileClient, ABacklogIsAnsweredInOrder) {
  constexpr std::uint32_t kRequests = 40;
  const StoreServer server("127.0.0.1", 0, "token");
  const std::string value(wire::kMaxContent / 4, 'x');
  client(server).set("value", value);
  const base::Fd late = stranger(server);
  std::string requests = kGreeting;
  for (std::uint32_t i = 2; i < 2 + kRequests; ++i)
    requests += wire::encode({i, wire::Operation::get, "value", {}});
  send_all(late.get(), requests, soon());
  expect_service(server);
  std::string bytes;
  EXPECT_EQ(read_reply(late, bytes, 1), "");
  for (std::uint32_t i = 2; i < 2 + kRequests; ++i) ASSERT_EQ(read_reply(late, bytes, i), value) << i;
}

// A request that is too long behind one that is not.
TEST(HostileClient, ATooLongRequestInABacklogEndsTheConnection) {
  const StoreServer server("127.0.0.1", 0, "token");
  const base::Fd socket = stranger(server);
  std::string requests = kGreeting;
  wire::put(requests, static_cast<std::uint32_t>(wire::kMaxBody + 1));
  send_all(socket.get(), requests, soon());
  std::string bytes;
  EXPECT_EQ(read_reply(socket, bytes, 1), "");
  EXPECT_THROW(recv_some(socket.get(), bytes, soon()), ConnectionLost);
  expect_service(server);
}

class FullStore : public ::testing::Test {
 protected:
  // Calls `change` with one key after another until the store is full; how often it was not.
  template <class Change>
  int fill(const Change& change) {
    for (int i = 0; i < kTooMany; ++i) {
      try {
        change(std::to_string(i));
      } catch (const StoreFull& error) {
        EXPECT_TRUE(syncbn::testing::tells(error.what(), "full")) << error.what();
        EXPECT_NE(std::string(error.what()).find(std::to_string(i)), std::string::npos) << error.what();
        return i;
      }
    }
    return kTooMany;
  }

  static constexpr int kTooMany = 2000;
  static constexpr std::size_t kHeld = 64 << 10;
  StoreServer server_{"127.0.0.1", 0, "token", {.held_bytes = kHeld}};
  TcpStore store_ = client(server_);
};

// control: each of these without its check for room goes on to kTooMany.
TEST_F(FullStore, RefusesValuesByName) {
  const std::string value(1000, 'x');
  const int stored = fill([&](const std::string& key) { store_.set(key, value); });
  EXPECT_GT(stored, 50);
  EXPECT_LE(static_cast<std::size_t>(stored) * value.size(), kHeld);
  EXPECT_EQ(store_.get("0", soon()), value) << "what was there stays";
  EXPECT_THROW(store_.get(std::to_string(stored), Clock::now() + milliseconds(50)), TimeoutError);
}

TEST_F(FullStore, RefusesManySmallKeys) {
  EXPECT_LT(fill([&](const std::string& key) { store_.set(key, ""); }), 600);
}

TEST_F(FullStore, RefusesNewCountersAndCountsOn) {
  const int counters = fill([&](const std::string& key) { store_.add(key, 7); });
  EXPECT_LT(counters, 600);
  EXPECT_EQ(store_.add("0", 1), 8);
}

TEST_F(FullStore, RefusesToAppendAndLeavesTheListAsItWas) {
  const std::string value(1000, 'x');
  int appended = 0;
  EXPECT_THROW(
      {
        for (; appended < kTooMany; ++appended) store_.append("list", value);
      },
      StoreFull);
  EXPECT_EQ(store_.add("list", 0), appended);
}

TEST_F(FullStore, AValueThatIsReplacedGivesItsRoomBack) {
  const std::string value(kHeld / 3, 'x');
  for (int i = 0; i < 20; ++i) store_.set("key", value);
  EXPECT_EQ(store_.get("key", soon()), value);
}

// control: a will that is not counted is appended to a full store, and any number can be left.
TEST_F(FullStore, KeepsRoomForWills) {
  const std::string will(kHeld / 4, 'w');
  std::vector<std::unique_ptr<TcpStore>> mortal;
  const int left = fill([&](const std::string& list) {
    mortal.push_back(std::make_unique<TcpStore>("127.0.0.1", server_.port(), "token", soon()));
    mortal.back()->append_on_disconnect(list, will);
  });
  EXPECT_EQ(left, 3);
  fill([&](const std::string& key) { store_.set("key" + key, ""); });
  mortal.clear();
  for (int i = 0; i < left; ++i) EXPECT_EQ(store_.get(fmt::format("{}/0", i), soon()), will);
}

// The whole of 127.0.0.0/8 is this machine's: a server on one address is not to be had on another.
// control, in the test: a server on all addresses is.
TEST(StoreAddress, IsTheOneThatWasGiven) {
  const auto try_at = [](const char* address, int port) {
    const base::Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(static_cast<std::uint16_t>(port));
    inet_pton(AF_INET, address, &where.sin_addr);
    return connect(socket.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) == 0 ? 0 : errno;
  };
  const StoreServer one("127.0.0.1", 0, "token");
  EXPECT_EQ(try_at("127.0.0.1", one.port()), 0);
  EXPECT_EQ(try_at("127.0.0.2", one.port()), ECONNREFUSED);
  const StoreServer all("", 0, "token");
  EXPECT_EQ(try_at("127.0.0.2", all.port()), 0);
}

}  // namespace
}  // namespace syncbn::rendezvous
