#include "launch/job_connection.h"
#include "base/block_signals.h"

#include <fmt/core.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "launch/exit_codes.h"
#include "rendezvous/store_server.h"
#include "rendezvous/tcp_store.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

using rendezvous::TcpStore;
using std::chrono::steady_clock;

constexpr std::string_view kRoll = "job";  // the list of the launchers' news
constexpr auto kRefusedPause = std::chrono::milliseconds(20);
constexpr auto kTellTime = std::chrono::seconds(1);  // the launcher waits for it, and does nothing else

}  // namespace

// The threads may outlive the link, so they share this with it.
struct Link::State {
  State(std::string host_, int port_, std::string token_, bool restarted_)
      : host(std::move(host_)),
        port(port_),
        token(std::move(token_)),
        restarted(restarted_),
        wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (wake.get() < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }

  std::shared_ptr<rendezvous::TcpStore> connect(Deadline deadline) {
    auto store = open(deadline);
    const std::lock_guard lock(mutex);
    if (over) store->interrupt();
    connections.push_back(store);
    return store;
  }

  // After a restart the launcher that serves may not have closed the store of the last start yet.
  std::shared_ptr<rendezvous::TcpStore> open(Deadline deadline) const {
    for (;;) {
      try {
        return std::make_shared<rendezvous::TcpStore>(host, port, token, deadline);
      } catch (const rendezvous::TokenRefused&) {
        if (!restarted || steady_clock::now() >= deadline) throw;
        std::this_thread::sleep_for(kRefusedPause);
      }
    }
  }

  template <class Change>
  void publish(const Change& change) {
    const std::lock_guard lock(mutex);
    change(news);
    eventfd_write(wake.get(), 1);
  }

  // Reads `list` for ever.
  template <class Use>
  void read(rendezvous::TcpStore& store, std::string_view list, const Use& use) {
    for (int i = 0;; ++i) use(store.get(fmt::format("{}/{}", list, i), Deadline::max()));
  }

  const std::string host;
  const int port;
  const std::string token;
  const bool restarted;
  const base::Fd wake;
  std::mutex mutex;  // guards all below
  bool over = false;
  News news;
  std::vector<std::shared_ptr<rendezvous::TcpStore>> connections;
  std::shared_ptr<rendezvous::TcpStore> mouth;  // only for the launcher's own thread: nothing waits there
};

Link::Link(const JobPlan& plan, Node self, Deadline connect_by)
    : state_(std::make_shared<State>(plan.options.master_addr, plan.store_port, plan.start_token(),
                                     plan.restart > 0)) {
  const base::BlockSignals deaf;
  std::thread([state = state_, self = std::move(self), connect_by]() mutable {
    try {
      const auto ear = state->connect(connect_by);
      const auto mouth = state->connect(connect_by);
      self.address = ear->local_address();
      ear->leave_will(kRoll, has_ended(self, {kSignalBase + SIGKILL,
                                              fmt::format("syncbn-run: {} was lost: it was killed, or its "
                                                          "node fell silent; the job was ended\n",
                                                          name(self))}));
      ear->append(kRoll, has_come(self));
      state->publish([&](News& news) {
        news.connected = true;
        state->mouth = mouth;
      });
      state->read(*ear, kRoll, [&](std::string text) {
        state->publish([&](News& news) { news.of_nodes.push_back(std::move(text)); });
      });
    } catch (const std::exception& error) {
      state->publish([&](News& news) { news.broken = error.what(); });
    }
  }).detach();
}

Link::~Link() {
  const std::lock_guard lock(state_->mutex);
  state_->over = true;
  for (const auto& store : state_->connections) store->interrupt();
}

int Link::wake_fd() const { return state_->wake.get(); }

Link::News Link::take() {
  const std::lock_guard lock(state_->mutex);
  eventfd_t count = 0;
  eventfd_read(state_->wake.get(), &count);
  const bool connected = state_->news.connected;
  return std::exchange(state_->news, News{connected, {}, {}, {}});
}

// Null where it is not connected yet.
std::shared_ptr<rendezvous::TcpStore> Link::mouth() const {
  const std::lock_guard lock(state_->mutex);
  if (state_->mouth != nullptr) state_->mouth->set_deadline(steady_clock::now() + kTellTime);
  return state_->mouth;
}

bool Link::tell(std::string_view news) {
  const auto store = mouth();
  if (store == nullptr) return false;
  try {
    store->append(kRoll, news);
    return true;
  } catch (const Error&) {  // the other connection breaks too, and its thread tells why
    return false;
  }
}

std::optional<std::vector<int>> Link::not_joined(const std::vector<int>& ranks) {
  const auto store = mouth();
  if (store == nullptr) return std::nullopt;
  try {
    std::vector<int> missing;
    for (const int rank : ranks)
      if (store->add(rendezvous::joined_counter(rank), 0) == 0) missing.push_back(rank);
    return missing;
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool Link::had_peer_error(int rank) {
  const auto store = mouth();
  if (store == nullptr) return false;
  try {
    return store->add(rendezvous::peer_error_counter(rank), 0) != 0;
  } catch (const Error&) {
    return false;
  }
}

void Link::follow_joins() {
  const base::BlockSignals deaf;
  std::thread([state = state_] {
    try {
      const auto ear = state->connect(Deadline::max());
      state->read(*ear, rendezvous::kJoinedList, [&](const std::string& text) {
        int rank = -1;
        std::from_chars(text.data(), text.data() + text.size(), rank);
        state->publish([&](News& news) { news.joined.push_back(rank); });
      });
    } catch (const std::exception&) {  // the job's end, or the first thread tells
    }
  }).detach();
}

}  // namespace syncbn::launch
