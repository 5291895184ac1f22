// SPDX-License-Identifier: Apache-2.0
#include "launch/job_connection.h"

#include <fmt/core.h>
#include <sys/eventfd.h>

#include <csignal>
#include <mutex>
#include <thread>
#include <utility>

#include "base/block_signals.h"
#include "base/throw_errno.h"
#include "environment/parse.h"
#include "launch/exit_codes.h"
#include "rendezvous/store_server.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

using rendezvous::TcpStore;
using std::chrono::steady_clock;

constexpr std::string_view kEventList = "job";
constexpr auto kRefusedPause = std::chrono::milliseconds(20);
constexpr auto kControlTime = std::chrono::seconds(1);  // the launcher does nothing else meanwhile

}  // namespace

// Shared with the threads, which may outlive the JobConnection.
struct JobConnection::State {
  explicit State(const JobPlan& plan)
      : host(plan.options.master_addr),
        port(plan.store_port),
        token(plan.start_token()),
        restarted(plan.restart > 0),
        wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (wake.get() < 0) base::throw_errno("eventfd");
  }

  std::shared_ptr<TcpStore> connect(Deadline deadline) {
    auto store = open(deadline);
    const std::lock_guard lock(mutex);
    if (closed) store->interrupt();
    connections.push_back(store);
    return store;
  }

  // After a restart the store of the previous start may not be closed yet. It refuses this start's token.
  std::shared_ptr<TcpStore> open(Deadline deadline) const {
    for (;;) {
      try {
        return std::make_shared<TcpStore>(host, port, token, deadline);
      } catch (const rendezvous::TokenRefused&) {
        if (!restarted || steady_clock::now() >= deadline) throw;
        std::this_thread::sleep_for(kRefusedPause);
      }
    }
  }

  template <class Change>
  void update(const Change& change) {
    const std::lock_guard lock(mutex);
    change(updates);
    eventfd_write(wake.get(), 1);
  }

  // Hands each value of `list` to `use`, until the connection breaks or is interrupted.
  template <class Use>
  void follow(TcpStore& store, std::string_view list, const Use& use) {
    for (int i = 0;; ++i) use(store.get(fmt::format("{}/{}", list, i), Deadline::max()));
  }

  const std::string host;
  const int port;
  const std::string token;
  const bool restarted;
  const base::Fd wake;
  std::mutex mutex;  // guards all below
  bool closed = false;
  Updates updates;
  std::vector<std::shared_ptr<TcpStore>> connections;
  std::shared_ptr<TcpStore> control;  // used by the launcher's main thread alone; none of its requests wait
};

JobConnection::JobConnection(const JobPlan& plan, Node self, Deadline connect_by)
    : state_(std::make_shared<State>(plan)) {
  const base::BlockSignals block_signals;
  std::thread([state = state_, self = std::move(self), connect_by]() mutable {
    try {
      const auto watch = state->connect(connect_by);
      const auto control = state->connect(connect_by);
      self.address = watch->local_address();
      watch->append_on_disconnect(
          kEventList,
          end_event(self, {kSignalBase + SIGKILL,
                           fmt::format("syncbn-run: {} was lost: it was killed, or its node stopped "
                                       "responding; the job was ended\n",
                                       describe(self))}));
      watch->append(kEventList, arrival_event(self));
      state->update([&](Updates& updates) {
        updates.connected = true;
        state->control = control;
      });
      state->follow(*watch, kEventList, [&](std::string event) {
        state->update([&](Updates& updates) { updates.events.push_back(std::move(event)); });
      });
    } catch (const std::exception& error) {
      state->update([&](Updates& updates) { updates.failure = error.what(); });
    }
  }).detach();
}

JobConnection::~JobConnection() {
  const std::lock_guard lock(state_->mutex);
  state_->closed = true;
  for (const auto& store : state_->connections) store->interrupt();
}

int JobConnection::wake_fd() const { return state_->wake.get(); }

JobConnection::Updates JobConnection::take_updates() {
  const std::lock_guard lock(state_->mutex);
  eventfd_t count = 0;
  eventfd_read(state_->wake.get(), &count);
  const bool connected = state_->updates.connected;
  return std::exchange(state_->updates, Updates{connected, {}, {}, {}});
}

// Null until the launcher is connected.
std::shared_ptr<TcpStore> JobConnection::control() const {
  const std::lock_guard lock(state_->mutex);
  if (state_->control != nullptr) state_->control->set_deadline(steady_clock::now() + kControlTime);
  return state_->control;
}

bool JobConnection::append(std::string_view event) {
  const auto store = control();
  if (store == nullptr) return false;
  try {
    store->append(kEventList, event);
    return true;
  } catch (const Error&) {  // the watch connection breaks too, and its thread reports why
    return false;
  }
}

bool JobConnection::had_peer_error(int rank) {
  const auto store = control();
  if (store == nullptr) return false;
  try {
    return store->add(rendezvous::peer_error_counter(rank), 0) != 0;
  } catch (const Error&) {
    return false;
  }
}

void JobConnection::follow_joins() {
  const base::BlockSignals block_signals;
  std::thread([state = state_] {
    try {
      const auto watch = state->connect(Deadline::max());
      state->follow(*watch, rendezvous::kJoinedList, [&](const std::string& text) {
        state->update(
            [&](Updates& updates) { updates.joined.push_back(environment::parse<int>(text).value_or(-1)); });
      });
    } catch (const std::exception&) {  // the first thread reports why, or the job has ended
    }
  }).detach();
}

}  // namespace syncbn::launch
