// SPDX-License-Identifier: Apache-2.0

// The rendezvous: StoreServer and TcpStore over real sockets.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <random>
#include <set>
#include <thread>

#include "../outcome.h"
#include "rendezvous/socket.h"
#include "rendezvous/store_server.h"
#include "rendezvous/store_wire.h"
#include "rendezvous/tcp_store.h"
#include "syncbn/error.h"

namespace syncbn::rendezvous {
namespace {

using syncbn::testing::expect_error;
using syncbn::testing::tells;

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

Deadline in(Clock::duration duration) { return Clock::now() + duration; }

class StoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<TcpStore> client() {
    return std::make_unique<TcpStore>("127.0.0.1", server_.port(), "token", in(seconds(20)));
  }
  base::Fd stranger() { return connect_to("127.0.0.1", server_.port(), in(seconds(20))); }
  // The server still does what it is for.
  void expect_service() {
    const auto store = client();
    store->set("still", "here");
    EXPECT_EQ(store->get("still", in(seconds(20))), "here");
  }
  // True: the server closed the connection.
  static bool is_closed(const base::Fd& socket) {
    std::string bytes;
    try {
      for (;;) recv_some(socket.get(), bytes, in(seconds(20)));
    } catch (const PeerError&) {
      return true;
    } catch (const TimeoutError&) {
      return false;
    }
  }

  StoreServer server_{"127.0.0.1", 0, "token"};
};

TEST_F(StoreTest, KeepsValuesAsBytes) {
  const auto a = client();
  const auto b = client();
  const std::string value("\0\xff\n bytes", 9);
  a->set(std::string("key\0x", 5), value);
  EXPECT_EQ(b->get(std::string("key\0x", 5), in(seconds(20))), value);
  a->set("key", "");
  EXPECT_EQ(b->get("key", in(seconds(20))), "");
  b->set("key", "second");
  EXPECT_EQ(a->get("key", in(seconds(20))), "second");
}

TEST_F(StoreTest, GetWaitsUntilTheKeyIsSet) {
  auto value = std::async(std::launch::async, [&] { return client()->get("late", in(seconds(20))); });
  EXPECT_EQ(value.wait_for(milliseconds(50)), std::future_status::timeout);
  client()->set("late", "came");
  EXPECT_EQ(value.get(), "came");
}

// control: without the numbers of requests in the wire format, the last get returns "too late" for "other".
TEST_F(StoreTest, GetThatGaveUpDisturbsNoLaterRequest) {
  const auto store = client();
  try {
    store->get("never", in(milliseconds(50)));
    FAIL() << "got a key that nobody set";
  } catch (const TimeoutError& error) {
    EXPECT_TRUE(tells(error.what(), "'never'")) << error.what();
  }
  client()->set("never", "too late");
  client()->set("other", "right");
  EXPECT_EQ(store->get("other", in(seconds(20))), "right");
  EXPECT_EQ(store->get("never", in(seconds(20))), "too late");
}

TEST_F(StoreTest, AddsFromManyClients) {
  constexpr int kClients = 8, kAdds = 100;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i)
    threads.emplace_back([&] {
      const auto store = client();
      for (int k = 0; k < kAdds; ++k) store->add("counter", 3);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client()->add("counter", -1), 3 * kClients * kAdds - 1);
  EXPECT_EQ(client()->add("another", 0), 0);
}

TEST_F(StoreTest, AListHasOneOrder) {
  constexpr int kClients = 8, kEach = 50;
  const auto read = [&] {
    const auto store = client();
    std::vector<std::string> values;
    for (int i = 0; i < kClients * kEach; ++i)
      values.push_back(store->get("list/" + std::to_string(i), in(seconds(20))));
    return values;
  };
  auto early = std::async(std::launch::async, read);  // waits for each
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i)
    threads.emplace_back([&, i] {
      const auto store = client();
      for (int k = 0; k < kEach; ++k) store->append("list", std::to_string(i) + ":" + std::to_string(k));
    });
  for (std::thread& thread : threads) thread.join();
  const std::vector<std::string> values = read();
  EXPECT_EQ(early.get(), values);
  EXPECT_EQ(std::set(values.begin(), values.end()).size(), values.size());
  for (int i = 0; i < kClients; ++i) {  // what one appends keeps its order
    int next = 0;
    for (const std::string& value : values) {
      if (!value.starts_with(std::to_string(i) + ":")) continue;
      EXPECT_EQ(value, fmt::format("{}:{}", i, next++));
    }
  }
}

// control: without the append where the server drops a client, the gets wait until their deadline.
TEST_F(StoreTest, AWillIsReadWhenTheConnectionHasEnded) {
  auto closing = client();
  closing->append_on_disconnect("list", "first will");
  closing->append_on_disconnect("list", "closed");
  client()->append_on_disconnect("list", "another, closed at once");
  const auto reader = client();
  EXPECT_EQ(reader->get("list/0", in(seconds(20))), "another, closed at once");
  EXPECT_THROW(reader->get("list/1", in(milliseconds(50))), TimeoutError) << "it is still connected";
  closing.reset();
  EXPECT_EQ(reader->get("list/1", in(seconds(20))), "closed");
  auto interrupted = client();
  interrupted->append_on_disconnect("list", "interrupted");
  interrupted->interrupt();
  EXPECT_EQ(reader->get("list/2", in(seconds(20))), "interrupted");
}

TEST_F(StoreTest, AWaitCanBeInterrupted) {
  const auto store = client();
  auto value = std::async(std::launch::async, [&] { return store->get("never", in(seconds(60))); });
  EXPECT_EQ(value.wait_for(milliseconds(20)), std::future_status::timeout);
  store->interrupt();
  ASSERT_EQ(value.wait_for(seconds(20)), std::future_status::ready);
  EXPECT_THROW(value.get(), PeerError);
  EXPECT_THROW(store->set("key", "value"), PeerError);
  expect_service();
}

TEST_F(StoreTest, NewcomersAreRefusedWhereThoseWhoAreThereGoOn) {
  const auto store = client();
  server_.refuse_newcomers();
  // The server's thread closes its door a moment later: a newcomer that was faster is let in.
  const auto deadline = in(seconds(20));
  bool refused = false;
  while (!refused && Clock::now() < deadline) {
    try {
      TcpStore("127.0.0.1", server_.port(), "token", in(milliseconds(20)));
    } catch (const TimeoutError&) {
      refused = true;
    }
  }
  EXPECT_TRUE(refused);
  store->set("still", "here");
  EXPECT_EQ(store->get("still", in(seconds(20))), "here");
}

TEST_F(StoreTest, RefusesAnotherToken) {
  for (const std::string token : {"", "tokem", "token2", "Token"}) {
    try {
      TcpStore store("127.0.0.1", server_.port(), token, in(seconds(20)));
      FAIL() << "token '" << token << "' was taken";
    } catch (const PeerError& error) {
      EXPECT_TRUE(tells(error.what(), "token")) << error.what();
    }
  }
  expect_service();
}

TEST_F(StoreTest, GarbageHarmsNobody) {
  std::mt19937 random(7);
  const auto waiting = client();
  for (int round = 0; round < 50; ++round) {
    std::string bytes(1 + random() % 2000, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (round % 3 == 0) {  // a right length before it, so that the body is looked at
      std::string framed;
      wire::put(framed, static_cast<std::uint32_t>(bytes.size()));
      bytes = framed + bytes;
    }
    const base::Fd socket = stranger();
    try {
      send_all(socket.get(), bytes, in(seconds(20)));
    } catch (const PeerError&) {  // the server was faster
    }
  }
  expect_service();
  client()->set("key", "value");
  EXPECT_EQ(waiting->get("key", in(seconds(20))), "value");
}

TEST_F(StoreTest, ClosesOnGarbageFromAStranger) {
  const base::Fd http = stranger();
  send_all(http.get(), "GET / HTTP/1.1\r\nHost: here\r\n\r\n", in(seconds(20)));
  EXPECT_TRUE(is_closed(http));
  const base::Fd unasked = stranger();  // well formed, but before the hello
  send_all(unasked.get(), wire::encode({1, wire::Operation::set, "key", "value"}), in(seconds(20)));
  EXPECT_TRUE(is_closed(unasked));
  expect_service();
}

TEST_F(StoreTest, TellsItsVersionToAClientOfAnother) {
  const base::Fd newer = stranger();
  send_all(newer.get(), wire::encode({1, wire::Operation::hello, "syncbn store 2", "token"}),
           in(seconds(20)));
  std::string answer;
  recv_some(newer.get(), answer, in(seconds(20)));
  EXPECT_EQ(answer, wire::encode({1, wire::Status::refused, wire::kHello}));
  EXPECT_TRUE(is_closed(newer));
  expect_service();
}

TEST_F(StoreTest, BoundsMessages) {
  const auto store = client();
  EXPECT_THROW(store->set("key", std::string(wire::kMaxBody, 'x')), InvalidArgument);
  const std::string largest(wire::kMaxContent - 3, 'x');
  store->set("key", largest);
  EXPECT_EQ(client()->get("key", in(seconds(20))), largest);
  const base::Fd socket = stranger();
  send_all(socket.get(), wire::encode({1, wire::Operation::hello, wire::kHello, "token"}), in(seconds(20)));
  std::string length;
  wire::put(length, static_cast<std::uint32_t>(wire::kMaxBody + 1));
  send_all(socket.get(), length, in(seconds(20)));
  EXPECT_TRUE(is_closed(socket));
  expect_service();
}

TEST_F(StoreTest, SlowAndSilentClientsHoldNobodyUp) {
  const base::Fd silent = stranger();
  const base::Fd slow = stranger();
  const std::string hello = wire::encode({1, wire::Operation::hello, wire::kHello, "token"});
  for (const char byte : hello) {
    send_all(slow.get(), {&byte, 1}, in(seconds(20)));
    expect_service();
  }
  std::string answer;
  recv_some(slow.get(), answer, in(seconds(20)));
  EXPECT_EQ(answer, wire::encode({1, wire::Status::done, {}}));
}

TEST_F(StoreTest, ClientThatNeverReadsHoldsNobodyUp) {
  const auto store = client();
  store->set("big", std::string(wire::kMaxContent / 2, 'x'));
  const base::Fd deaf = stranger();
  std::string requests = wire::encode({1, wire::Operation::hello, wire::kHello, "token"});
  for (std::uint32_t i = 2; i < 102; ++i) requests += wire::encode({i, wire::Operation::get, "big", {}});
  send_all(deaf.get(), requests, in(seconds(20)));
  expect_service();
}

TEST_F(StoreTest, KnowsWhenItIsIdle) {
  const base::Fd silent = stranger();
  EXPECT_TRUE(server_.wait_until_idle(in(seconds(20))));
  auto store = client();
  EXPECT_FALSE(server_.wait_until_idle(in(milliseconds(20))));
  store.reset();
  EXPECT_TRUE(server_.wait_until_idle(in(seconds(20))));
}

TEST_F(StoreTest, StopEndsWaitingClientsAtOnce) {
  const auto store = client();
  auto value = std::async(std::launch::async, [&] { return store->get("never", in(seconds(60))); });
  EXPECT_EQ(value.wait_for(milliseconds(20)), std::future_status::timeout);
  server_.stop();
  server_.stop();
  ASSERT_EQ(value.wait_for(seconds(20)), std::future_status::ready);
  EXPECT_THROW(value.get(), PeerError);
  EXPECT_THROW(TcpStore("127.0.0.1", server_.port(), "token", in(milliseconds(50))), TimeoutError);
}

TEST(StoreAddress, ServerMayStartLast) {
  int port = 0;
  {
    const StoreServer server("127.0.0.1", 0, "");
    port = server.port();
  }
  auto value = std::async(std::launch::async,
                          [&] { return TcpStore("127.0.0.1", port, "", in(seconds(20))).add("counter", 5); });
  EXPECT_EQ(value.wait_for(milliseconds(50)), std::future_status::timeout);
  const StoreServer server("127.0.0.1", port, "");
  EXPECT_EQ(value.get(), 5);
}

// A server that is going closes what it has just accepted.
// control: without the second try in TcpStore's constructor the connection that is lost is an error.
TEST(StoreAddress, AServerThatGoesIsNotTheOneThatIsWaitedFor) {
  base::Fd going = listen_on("127.0.0.1", 0);
  const int port = local_port(going.get());
  auto value = std::async(std::launch::async,
                          [&] { return TcpStore("127.0.0.1", port, "", in(seconds(20))).add("counter", 5); });
  int accepted = -1;
  while (accepted < 0) accepted = accept(going.get(), nullptr, nullptr);
  going = base::Fd();
  base::Fd{accepted};
  const StoreServer server("127.0.0.1", port, "");
  EXPECT_EQ(value.get(), 5);
}

TEST(StoreAddress, SomethingElseThatListensIsNoStore) {
  const base::Fd silent = listen_on("127.0.0.1", 0);
  EXPECT_THROW(TcpStore("127.0.0.1", local_port(silent.get()), "", in(milliseconds(200))), TimeoutError);
  const base::Fd talkative = listen_on("127.0.0.1", 0);
  auto refused = std::async(std::launch::async,
                            [&] { TcpStore("127.0.0.1", local_port(talkative.get()), "", in(seconds(20))); });
  int accepted = -1;
  while (accepted < 0) accepted = accept(talkative.get(), nullptr, nullptr);
  const base::Fd connection(accepted);
  send_all(connection.get(), "HTTP/1.1 400 Bad Request\r\n", in(seconds(20)));
  expect_error<PeerError>([&] { refused.get(); },
                          {fmt::format("127.0.0.1:{}", local_port(talkative.get())), "store"});
}

TEST(StoreAddress, AStoreOfAnotherVersionIsNamed) {
  const base::Fd newer = listen_on("127.0.0.1", 0);
  auto refused = std::async(std::launch::async,
                            [&] { TcpStore("127.0.0.1", local_port(newer.get()), "", in(seconds(20))); });
  int accepted = -1;
  while (accepted < 0) accepted = accept(newer.get(), nullptr, nullptr);
  const base::Fd connection(accepted);
  send_all(connection.get(), wire::encode({1, wire::Status::refused, "syncbn store 2"}), in(seconds(20)));
  expect_error<PeerError>([&] { refused.get(); }, {"'syncbn store 2'", "'syncbn store 1'", "same version"});
}

TEST(StoreAddress, UnusableOnesAreNamed) {
  const StoreServer server("127.0.0.1", 0, "");
  const auto listen_on = [](const std::string& host, int port) {
    return [=] { const StoreServer second(host, port, ""); };
  };
  expect_error<GroupError>(listen_on("127.0.0.1", server.port()), {"Address already in use"});
  expect_error<GroupError>(listen_on("192.0.2.1", 0), {"192.0.2.1:0"});  // nobody's address
  expect_error<GroupError>([] { TcpStore store("no-such-host.invalid", 1, "", in(milliseconds(50))); },
                           {"'no-such-host.invalid'"});
}

}  // namespace
}  // namespace syncbn::rendezvous
