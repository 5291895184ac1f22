#include "group/store_server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

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
  Impl(const std::string& host, int port, std::string token)
      : token_(std::move(token)),
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
        // While an answer is unsent nothing more is read: a client that doesn't listen can't fill this
        // memory.
        const short events = client.out.empty() ? POLLIN : POLLOUT;
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
          const auto will = std::move(client->will);
          if (client->greeted) count_greeted(-1);
          client = clients_.erase(client);
          if (will) append(will->first, will->second);
        }
      }
      if (entries[1].revents != 0 && !refusing_) accept_all();
    }
    clients_.clear();
    listener_ = Fd();
    const std::lock_guard lock(mutex_);
    greeted_ = 0;
    idle_.notify_all();
  }

  void accept_all() {
    for (;;) {
      Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (socket.get() >= 0) {
        notice_silence(socket.get());
        clients_.emplace_back(std::move(socket));
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        accept_again_ = Clock::now() + kAcceptPause;
        return;
      } else if (errno != EINTR && errno != ECONNABORTED) {
        return;
      }
    }
  }

  // Moves the client's bytes both ways. False: the connection is over.
  bool serve(Client& client) {
    if (!client.out.empty()) return flush(client);
    char chunk[16384];
    const ssize_t received = recv(client.socket.get(), chunk, sizeof chunk, 0);
    if (received < 0) return errno == EAGAIN || errno == EINTR;
    if (received == 0) return false;
    client.in.append(chunk, static_cast<std::size_t>(received));
    while (!client.closing) {
      const auto size = wire::body_size(client.in);
      if (!size) break;
      if (*size > (client.greeted ? wire::kMaxBody : wire::kMaxHelloBody)) return false;
      if (client.in.size() < 4 + *size) break;
      const auto request = wire::decode_request(std::string_view(client.in).substr(4, *size));
      if (!request || !answer(client, *request)) return false;
      client.in.erase(0, 4 + *size);
    }
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
        client.out += wire::encode({request.number, wire::Status::done, {}});
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
        std::string sum;
        wire::put(sum, counters_[std::string(request.key)] += wire::take<std::uint64_t>(delta));
        client.out += wire::encode({request.number, wire::Status::done, sum});
        return true;
      }
      case Operation::append:
        client.out += wire::encode({request.number, wire::Status::done, {}});
        append(request.key, request.value);
        return true;
      case Operation::will:
        client.will.emplace(request.key, request.value);
        client.out += wire::encode({request.number, wire::Status::done, {}});
        return true;
    }
    return false;
  }

  void publish(std::string_view key, std::string_view value) {
    values_.insert_or_assign(std::string(key), std::string(value));
    for (Client& client : clients_) {
      if (!client.waits || client.waits->second != key) continue;
      client.out +=
          wire::encode({client.waits->first, wire::Status::done, value});  // sent when poll() says so
      client.waits.reset();
    }
  }

  void append(std::string_view list, std::string_view value) {
    const std::string name(list);
    publish(fmt::format("{}/{}", list, counters_[name]++), value);
  }

  void count_greeted(int change) {
    const std::lock_guard lock(mutex_);
    greeted_ += change;
    if (greeted_ == 0) idle_.notify_all();
  }

  const std::string token_;
  Fd listener_;
  const int port_;
  const Fd wake_;
  Deadline accept_again_ = Deadline::min();
  std::list<Client> clients_;
  std::map<std::string, std::string, std::less<>> values_;
  std::map<std::string, std::uint64_t> counters_;  // two's complement, so that they wrap
  std::atomic<bool> stopping_{false};
  std::atomic<bool> refusing_{false};
  mutable std::mutex mutex_;  // guards greeted_
  int greeted_ = 0;
  mutable std::condition_variable idle_;
  std::thread thread_;
};

StoreServer::StoreServer(const std::string& host, int port, std::string token)
    : impl_(std::make_unique<Impl>(host, port, std::move(token))) {}
StoreServer::~StoreServer() = default;
int StoreServer::port() const { return impl_->port(); }
void StoreServer::stop() noexcept { impl_->stop(); }
void StoreServer::refuse_newcomers() noexcept { impl_->refuse_newcomers(); }
bool StoreServer::wait_until_idle(Deadline deadline) const { return impl_->wait_until_idle(deadline); }

}  // namespace syncbn::group
