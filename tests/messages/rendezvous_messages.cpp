// SPDX-License-Identifier: Apache-2.0
// The store over TCP, and ranks that meet there for the engine gloo
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "base/file_descriptor.h"
#include "engines/gloo_membership.h"
#include "messages/messages.h"
#include "ranks.h"
#include "rendezvous/socket.h"
#include "rendezvous/store_server.h"
#include "rendezvous/store_wire.h"
#include "rendezvous/tcp_store.h"

namespace syncbn::testing {
namespace {

using rendezvous::StoreAddress;
using rendezvous::StoreServer;
using rendezvous::TcpStore;
namespace wire = rendezvous::wire;

Deadline at_once() { return std::chrono::steady_clock::now() + 50ms; }

// Outcome of a client whose server answers with these bytes.
std::string answered_by(const std::string& bytes) {
  const base::Fd listener = rendezvous::listen_on("127.0.0.1", 0);
  base::Fd client;  // open until the answer is read
  std::string text;
  run_ranks(2, [&](int rank) {
    if (rank == 0) {
      text = outcome([&] { TcpStore("127.0.0.1", rendezvous::local_port(listener.get()), "", soon()); });
    } else {
      base::wait_ready(listener.get(), POLLIN, soon());
      client = base::Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      rendezvous::send_all(client.get(), bytes, soon());
    }
  });
  return text;
}

// Outcome of `call` on the client of a new server.
std::string with_store(const std::function<void(TcpStore&)>& call,
                       const rendezvous::StoreLimits& limits = {}) {
  const StoreServer server("127.0.0.1", 0, "token", limits);
  TcpStore store("127.0.0.1", server.port(), "token", soon());
  return outcome([&] { call(store); });
}

// A rank of a world of `size`, on a store that `before` has changed.
std::string join(
    std::optional<int> rank, int size, Deadline deadline,
    const std::function<void(TcpStore&)>& before = [](TcpStore&) {}) {
  const StoreServer server("127.0.0.1", 0, "token");
  const StoreAddress address{"127.0.0.1", server.port(), "token"};
  TcpStore store = address.connect(soon());
  before(store);
  environment::WorldSpec spec;
  spec.rank = rank;
  spec.size = size;
  return outcome([&] { engines::GlooMembership(address, spec, deadline); });
}

}  // namespace

std::vector<Message> rendezvous_messages() {
  return {
      {"rendezvous: nothing listens",
       [] { return outcome([] { TcpStore("127.0.0.1", 1, "", at_once()); }); }},
      {"rendezvous: something else listens", [] { return answered_by("HTTP/1.1 400 Bad Request"); }},
      {"rendezvous: a store of another version",
       [] {
         return answered_by(wire::encode(wire::Reply{1, wire::Status::refused, "syncbn store 2"}));
       }},
      {"rendezvous: another token",
       [] {
         const StoreServer server("127.0.0.1", 0, "token");
         return outcome([&] { TcpStore("127.0.0.1", server.port(), "another", soon()); });
       }},
      {"rendezvous: an address of another machine",
       [] { return outcome([] { StoreServer("192.0.2.1", 0, "token"); }); }},
      {"rendezvous: a port that is taken",
       [] {
         const StoreServer server("127.0.0.1", 0, "token");
         return outcome([&] { StoreServer("127.0.0.1", server.port(), "token"); });
       }},
      {"rendezvous: a key that nobody set",
       [] { return with_store([](TcpStore& store) { store.get("key", at_once()); }); }},
      {"rendezvous: a connection that was given up",
       [] {
         return with_store([](TcpStore& store) {
           store.interrupt();
           store.get("key", soon());
         });
       }},
      {"rendezvous: a value that is too long",
       [] { return with_store([](TcpStore& store) { store.set("key", std::string(2 << 20, 'x')); }); }},
      {"rendezvous: a store that is full",
       [] {
         return with_store([](TcpStore& store) { store.set("key", std::string(2000, 'x')); },
                           {.held_bytes = 1000});
       }},
      {"rendezvous: a rank outside the world", [] { return join(5, 3, soon()); }},
      {"init: a peer that does not join in time",
       [] {
         int port = 0;
         {
           const StoreServer server("127.0.0.1", 0, "");
           port = server.port();
         }
         return outcome([port] {
           init({.rank = 0, .size = 2, .port = port, .timeout = std::chrono::milliseconds(20)});
         });
       }},
      {"rendezvous: ranks that did not join", [] { return join(0, 3, at_once()); }},
      {"rendezvous: a rank that is taken",
       [] {
         return join(1, 2, soon(), [](TcpStore& store) {
           store.add(rendezvous::joined_counter(1), 1);
           store.set("world/owner/1", "process 7 on another host (0123abcd)");
         });
       }},
      {"rendezvous: more processes than ranks",
       [] { return join({}, 2, soon(), [](TcpStore& store) { store.add("world/next_rank", 2); }); }},
      {"rendezvous: worlds of different sizes",
       [] {
         const StoreServer server("127.0.0.1", 0, "token");
         std::string text;
         run_ranks(2, [&](int rank) {
           environment::WorldSpec spec;
           spec.rank = rank;
           spec.size = 2 + rank;
           const std::string here = outcome([&] {
             engines::GlooMembership({"127.0.0.1", server.port(), "token"}, spec, soon());
           });
           if (rank == 0) text = here;
         });
         return text;
       }},
  };
}

}  // namespace syncbn::testing
