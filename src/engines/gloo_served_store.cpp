// SPDX-License-Identifier: Apache-2.0
#include "engines/gloo_served_store.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>

#include "base/forks.h"
#include "rendezvous/socket.h"
#include "rendezvous/store_server.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kDrainTime = std::chrono::seconds(5);  // for the peers to leave a store before it ends

// The store that this process serves for its job. It outlives release(), because a peer may still be in the
// old world or already be joining the next one. It ends with the process, or when the process joins another
// job.
class ServedStore {
 public:
  ~ServedStore() { stop(); }

  // Returns the port. Listens on `address`, or on spec.host if there is none. @throws GroupError
  int serve(const environment::WorldSpec& spec, const std::optional<std::string>& address = std::nullopt) {
    const std::lock_guard lock(mutex_);
    if (inherited()) base::leak(server_);
    if (!server_ || spec.host != host_ || (spec.port != port_ && spec.port != 0) || spec.token != token_) {
      stop();
      server_ = std::make_unique<rendezvous::StoreServer>(
          address.value_or(spec.host), spec.port, spec.token,
          rendezvous::StoreLimits{.members = rendezvous::members_of(spec.size)});
      host_ = spec.host;
      port_ = server_->port();
      token_ = spec.token;
      fork_guard_ = base::ForkGuard();
    }
    return port_;
  }

 private:
  // In a fork the server's thread does not exist, so the server cannot be stopped.
  bool inherited() const { return server_ != nullptr && fork_guard_.inherited(); }
  void stop() {
    if (inherited()) base::leak(server_);
    if (server_) server_->wait_until_idle(Clock::now() + kDrainTime);
    server_ = nullptr;
  }

  std::mutex mutex_;  // guards all members below
  std::unique_ptr<rendezvous::StoreServer> server_;
  std::string host_;
  int port_ = 0;
  std::string token_;
  base::ForkGuard fork_guard_;
};
// Created when the program is loaded, so it is destroyed after the worlds, whose connections close first.
ServedStore served_store;

// False if no process listens on the port yet. Two processes that listen at the same moment may both be
// refused, and an unrelated connection may occupy the port for a while.
bool is_served(const environment::WorldSpec& spec, Deadline deadline) {
  const std::chrono::milliseconds pause(20 + std::random_device()() % 80);
  try {
    rendezvous::connect_to(spec.host, spec.port, std::min(deadline, Clock::now() + pause));
  } catch (const TimeoutError&) {
    return Clock::now() >= deadline;  // the next connection reports the timeout
  }
  return true;
}

}  // namespace

// A process that must serve the store may be given an address of another machine, such as the address of a
// Kubernetes service. It then listens on all addresses of this machine.
int serve_or_find_store(const environment::WorldSpec& spec, Deadline deadline) {
  if (spec.serve == environment::Serve::no) return spec.port;
  const bool must_serve = spec.serve == environment::Serve::yes;
  rendezvous::wait_for_name(spec.host, deadline);
  for (;;) {
    try {
      return served_store.serve(spec);
    } catch (const rendezvous::AddressElsewhere&) {
      if (!must_serve) return spec.port;
      return served_store.serve(spec, "");
    } catch (const rendezvous::AddressUnavailable& error) {
      if (must_serve) throw GroupError(fmt::format("{} (the port is {})", error.what(), spec.port_setting));
      if (is_served(spec, deadline)) return spec.port;
    } catch (const GroupError&) {
      if (!must_serve) return spec.port;
      throw;
    }
  }
}

}  // namespace syncbn::engines
