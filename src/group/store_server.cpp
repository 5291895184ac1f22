#include "group/store_server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "group/socket.h"
#include "group/store_wire.h"

namespace syncbn::group {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kAcceptPause = std::chrono::milliseconds(100);  // when the process has no descriptor left
// Connections taken between two looks at those that are there: a flood of strangers then gives everyone
// several looks, in which it can say hello, before it is the oldest stranger and goes.
constexpr int kAcceptedAtOnce = 16;
// What a map's node and two string headers take beside the bytes, so that many small keys count as what they
// are.
constexpr std::size_t kEntrySize = 128;
constexpr std::size_t kMaxDigits = 20;  // of a list's counter

struct Client {
  explicit Client(Fd&& accepted) : socket(std::move(accepted)) {}

  Fd socket;
  Deadline hello_by = Clock::now() + wire::kHelloTime;
  bool greeted = false;  // presented the token
  bool closing = false;  // to be dropped when `out` is sent
  std::string in;
  std::string out;
  std::optional<std::pair<std::uint32_t, std::string>>
      waits;                                                // number and key of a get that has no value yet
  std::optional<std::pair<std::string, std::string>> will;  // list and value
};

std::size_t max_body(const Client& client) { return client.greeted ? wire::kMaxBody : wire::kMaxHelloBody; }

// A whole request, or the announcement of one that is too long, lies in `in`: there is something to do
// without another byte.
bool has_request(const Client& client) {
  const auto size = wire::body_size(client.in);
  return size && (*size > max_body(client) || client.in.size() >= 4 + *size);
}

std::size_t entry_size(std::string_view key, std::size_t value_size) {
  return key.size() + value_size + kEntrySize;
}

// What an append may take: the entry, and the list's counter where it is the first.
std::size_t append_size(std::string_view list, std::string_view value) {
  return entry_size(list, 1 + kMaxDigits + value.size()) + entry_size(list, sizeof(std::uint64_t));
}

// Takes the same time wherever the first difference is.
bool equal_secrets(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

class StoreServer::Impl {
 public:
  Impl(const std::string& host, int port, std::string token, const StoreLimits& limits)
      : token_(std::move(token)),
        limits_(limits),
        listener_(listen_on(host, port)),
        port_(local_port(listener_.get())),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    const BlockSignals deaf;
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() { stop(); }

  int port() const { return port_; }

  void stop() noexcept {
    if (!thread_.joinable()) return;
    stopping_ = true;
    eventfd_write(wake_.get(), 1);
    thread_.join();
  }

  void refuse_newcomers() noexcept {
    refusing_ = true;
    eventfd_write(wake_.get(), 1);
  }

  bool wait_until_idle(Deadline deadline) const {
    std::unique_lock lock(mutex_);
    return idle_.wait_until(lock, deadline, [this] { return greeted_ == 0; });
  }

 private:
  void run() {
    std::vector<pollfd> entries;
    for (;;) {
      const bool accepting = Clock::now() >= accept_again_;
      Deadline next = accepting ? Deadline::max() : accept_again_;
      entries = {{wake_.get(), POLLIN, 0}, {accepting ? listener_.get() : -1, POLLIN, 0}};
      for (const Client& client : clients_) {
        // While an answer is unsent or a request unanswered nothing more is read: a client that doesn't
        // listen can't fill this memory.
        const short events = client.out.empty() && !has_request(client) ? POLLIN : POLLOUT;
        entries.push_back({client.socket.get(), events, 0});
        if (!client.greeted) next = std::min(next, client.hello_by);
      }
      if (poll(entries.data(), entries.size(), next == Deadline::max() ? -1 : poll_timeout(next)) < 0 &&
          errno != EINTR)
        break;
      if (stopping_) break;
      if (entries[0].revents != 0) {
        eventfd_t count = 0;
        eventfd_read(wake_.get(), &count);
      }
      if (refusing_) listener_ = Fd();
      auto entry = entries.begin() + 2;
      for (auto client = clients_.begin(); client != clients_.end(); ++entry) {
        const bool late = !client->greeted && Clock::now() >= client->hello_by;
        if (!late && (entry->revents == 0 || serve(*client))) {
          ++client;
        } else {
          client = drop(client);
        }
      }
      if (entries[1].revents != 0 && !refusing_) accept_some();
    }
    clients_.clear();
    listener_ = Fd();
    const std::lock_guard lock(mutex_);
    greeted_ = 0;
    idle_.notify_all();
  }

  std::list<Client>::iterator drop(std::list<Client>::iterator client) {
    const auto will = std::move(client->will);
    if (client->greeted) count_greeted(-1);
    client = clients_.erase(client);
    if (will) {
      held_ -= append_size(will->first, will->second);  // and so there is room
      append(will->first, will->second);
    }
    return client;
  }

  void accept_some() {
    for (int i = 0; i < kAcceptedAtOnce; ++i) {
      Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (socket.get() >= 0) {
        notice_silence(socket.get());
        clients_.emplace_back(std::move(socket));
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        accept_again_ = Clock::now() + kAcceptPause;
        break;
      } else if (errno != EINTR && errno != ECONNABORTED) {
        break;
      }
    }
    drop_oldest_strangers();
  }

  void drop_oldest_strangers() {
    const auto is_stranger = [](const Client& client) { return !client.greeted; };
    auto surplus =
        std::count_if(clients_.begin(), clients_.end(), is_stranger) - std::ptrdiff_t{limits_.strangers};
    for (auto client = clients_.begin(); surplus > 0; --surplus)
      client = drop(std::find_if(client, clients_.end(), is_stranger));
  }

  // Moves the client's bytes both ways and answers one request at most: the next one when that answer is sent
  // and the others had their turn. False: the connection is over.
  bool serve(Client& client) {
    if (!flush(client)) return false;
    if (!client.out.empty()) return true;
    if (!has_request(client)) {
      char chunk[16384];
      const ssize_t received = recv(client.socket.get(), chunk, sizeof chunk, 0);
      if (received < 0) return errno == EAGAIN || errno == EINTR;
      if (received == 0) return false;
      client.in.append(chunk, static_cast<std::size_t>(received));
      if (!has_request(client)) return true;
    }
    const std::size_t size = *wire::body_size(client.in);
    if (size > max_body(client)) return false;
    const auto request = wire::decode_request(std::string_view(client.in).substr(4, size));
    if (!request || !answer(client, *request)) return false;
    client.in.erase(0, 4 + size);
    return flush(client);
  }

  bool flush(Client& client) {
    while (!client.out.empty()) {
      const ssize_t sent = send(client.socket.get(), client.out.data(), client.out.size(), MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      client.out.erase(0, static_cast<std::size_t>(sent));
    }
    return !client.closing;
  }

  // False: not a request of this protocol.
  bool answer(Client& client, const wire::Request& request) {
    using wire::Operation;
    if (client.greeted != (request.operation != Operation::hello)) return false;
    client.waits.reset();  // a client has one request in flight: a new one means that it gave the last one up
    switch (request.operation) {
      case Operation::hello:
        if (request.key != wire::kHello) return false;
        client.greeted = equal_secrets(request.value, token_);
        client.closing = !client.greeted;
        if (client.greeted) count_greeted(1);
        client.out +=
            wire::encode({request.number, client.greeted ? wire::Status::done : wire::Status::refused, {}});
        return true;
      case Operation::set:
        if (reply_if_room(client, request, entry_size(request.key, request.value.size())))
          publish(request.key, request.value);
        return true;
      case Operation::get:
        if (const auto found = values_.find(request.key); found != values_.end())
          client.out += wire::encode({request.number, wire::Status::done, found->second});
        else
          client.waits.emplace(request.number, request.key);
        return true;
      case Operation::add: {
        if (request.value.size() != 8) return false;
        std::string_view delta = request.value;
        const std::string name(request.key);
        if (!counters_.contains(name) && !room_for(entry_size(name, sizeof(std::uint64_t)))) {
          client.out += wire::encode({request.number, wire::Status::full, {}});
          return true;
        }
        std::string sum;
        wire::put(sum, counter(name) += wire::take<std::uint64_t>(delta));
        client.out += wire::encode({request.number, wire::Status::done, sum});
        return true;
      }
      case Operation::append:
        if (reply_if_room(client, request, append_size(request.key, request.value)))
          append(request.key, request.value);
        return true;
      case Operation::will: {
        // Room is kept for it, since nobody would hear that there is none when it is read.
        const std::size_t size = append_size(request.key, request.value);
        if (!reply_if_room(client, request, size)) return true;
        if (client.will) held_ -= append_size(client.will->first, client.will->second);
        client.will.emplace(request.key, request.value);
        held_ += size;
        return true;
      }
    }
    return false;
  }

  bool room_for(std::size_t size) const {
    return held_ <= limits_.held_bytes && size <= limits_.held_bytes - held_;
  }

  bool reply_if_room(Client& client, const wire::Request& request, std::size_t size) {
    const bool room = room_for(size);
    client.out += wire::encode({request.number, room ? wire::Status::done : wire::Status::full, {}});
    return room;
  }

  void publish(std::string_view key, std::string_view value) {
    const auto [entry, is_new] = values_.try_emplace(std::string(key));
    if (!is_new) held_ -= entry_size(key, entry->second.size());
    entry->second = value;
    held_ += entry_size(key, value.size());
    for (Client& client : clients_) {
      if (!client.waits || client.waits->second != key) continue;
      client.out +=
          wire::encode({client.waits->first, wire::Status::done, value});  // sent when poll() says so
      client.waits.reset();
    }
  }

  // Starts at 0.
  std::uint64_t& counter(const std::string& name) {
    const auto [entry, is_new] = counters_.try_emplace(name);
    if (is_new) held_ += entry_size(name, sizeof(std::uint64_t));
    return entry->second;
  }

  void append(std::string_view list, std::string_view value) {
    publish(fmt::format("{}/{}", list, counter(std::string(list))++), value);
  }

  void count_greeted(int change) {
    const std::lock_guard lock(mutex_);
    greeted_ += change;
    if (greeted_ == 0) idle_.notify_all();
  }

  const std::string token_;
  const StoreLimits limits_;
  Fd listener_;
  const int port_;
  const Fd wake_;
  Deadline accept_again_ = Deadline::min();
  std::list<Client> clients_;
  std::map<std::string, std::string, std::less<>> values_;
  std::map<std::string, std::uint64_t> counters_;  // two's complement, so that they wrap
  std::size_t held_ = 0;                           // what values, counters and wills take
  std::atomic<bool> stopping_{false};
  std::atomic<bool> refusing_{false};
  mutable std::mutex mutex_;  // guards greeted_
  int greeted_ = 0;
  mutable std::condition_variable idle_;
  std::thread thread_;
};

StoreServer::StoreServer(const std::string& host, int port, std::string token, const StoreLimits& limits)
    : impl_(std::make_unique<Impl>(host, port, std::move(token), limits)) {}
StoreServer::~StoreServer() = default;
int StoreServer::port() const { return impl_->port(); }
void StoreServer::stop() noexcept { impl_->stop(); }
void StoreServer::refuse_newcomers() noexcept { impl_->refuse_newcomers(); }
bool StoreServer::wait_until_idle(Deadline deadline) const { return impl_->wait_until_idle(deadline); }

}  // namespace syncbn::group
