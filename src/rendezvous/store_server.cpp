// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/store_server.h"
#include "base/block_signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "rendezvous/socket.h"
#include "rendezvous/store_protocol.h"
#include "rendezvous/store_wire.h"

namespace syncbn::rendezvous {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kAcceptPause = std::chrono::milliseconds(100);  // when the process has no descriptor left
// Connections accepted between two rounds of serving the existing ones. During a flood of connections, each
// client then gets several rounds to present its token before it is the oldest without a token and is closed.
constexpr int kAcceptedAtOnce = 16;

struct Client {
  Client(base::Fd&& accepted, StoreProtocol::Handle connected)
      : socket(std::move(accepted)), connection(connected) {}

  base::Fd socket;
  StoreProtocol::Handle connection;
  Deadline hello_by = Clock::now() + wire::kHelloTime;
};

}  // namespace

class StoreServer::Impl {
 public:
  Impl(const std::string& host, int port, std::string token, const StoreLimits& limits)
      : limits_(limits),
        protocol_(std::move(token), limits),
        listener_(listen_on(host, port)),
        port_(local_port(listener_.get())),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    const base::BlockSignals blocked;
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
    return idle_.wait_until(lock, deadline, [this] { return members_ == 0; });
  }

 private:
  void run() {
    std::vector<pollfd> entries;
    for (;;) {
      const bool accepting = Clock::now() >= accept_again_;
      Deadline next = accepting ? Deadline::max() : accept_again_;
      entries = {{wake_.get(), POLLIN, 0}, {accepting ? listener_.get() : -1, POLLIN, 0}};
      for (const Client& client : clients_) {
        // Nothing is read while a reply is unsent or a request unanswered, so a client that does not read
        // cannot fill this process's memory.
        const StoreProtocol::Connection& connection = *client.connection;
        const short events = connection.out.empty() && !connection.has_request() ? POLLIN : POLLOUT;
        entries.push_back({client.socket.get(), events, 0});
        if (!connection.is_member()) next = std::min(next, client.hello_by);
      }
      if (poll(entries.data(), entries.size(), next == Deadline::max() ? -1 : base::poll_timeout(next)) < 0 &&
          errno != EINTR)
        break;
      if (stopping_) break;
      if (entries[0].revents != 0) {
        eventfd_t count = 0;
        eventfd_read(wake_.get(), &count);
      }
      if (refusing_) listener_ = base::Fd();
      auto entry = entries.begin() + 2;
      for (auto client = clients_.begin(); client != clients_.end(); ++entry) {
        const bool late = !client->connection->is_member() && Clock::now() >= client->hello_by;
        if (!late && (entry->revents == 0 || serve(*client))) {
          ++client;
        } else {
          client = drop(client);
        }
      }
      if (entries[1].revents != 0 && !refusing_) accept_some();
    }
    clients_.clear();
    listener_ = base::Fd();
    note_members(0);
  }

  std::list<Client>::iterator drop(std::list<Client>::iterator client) {
    protocol_.disconnect(client->connection);
    note_members(protocol_.members());
    return clients_.erase(client);
  }

  void accept_some() {
    for (int i = 0; i < kAcceptedAtOnce; ++i) {
      base::Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (socket.get() >= 0) {
        notice_silence(socket.get());
        clients_.emplace_back(std::move(socket), protocol_.connect());
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        accept_again_ = Clock::now() + kAcceptPause;
        break;
      } else if (errno != EINTR && errno != ECONNABORTED) {
        break;
      }
    }
    drop_oldest_unauthenticated();
  }

  void drop_oldest_unauthenticated() {
    const auto is_unauthenticated = [](const Client& client) { return !client.connection->is_member(); };
    auto surplus = std::count_if(clients_.begin(), clients_.end(), is_unauthenticated) -
                   std::ptrdiff_t{limits_.unauthenticated};
    for (auto client = clients_.begin(); surplus > 0; --surplus)
      client = drop(std::find_if(client, clients_.end(), is_unauthenticated));
  }

  // Sends and receives bytes of the client and answers at most one request. The next request is answered
  // after the reply has been sent and the other clients have been served. Returns false if the connection
  // must be closed.
  bool serve(Client& client) {
    StoreProtocol::Connection& connection = *client.connection;
    if (!flush(client)) return false;
    if (!connection.out.empty()) return true;
    if (!connection.has_request()) {
      char chunk[16384];
      const ssize_t received = recv(client.socket.get(), chunk, sizeof chunk, 0);
      if (received < 0) return errno == EAGAIN || errno == EINTR;
      if (received == 0) return false;
      connection.in.append(chunk, static_cast<std::size_t>(received));
      if (!connection.has_request()) return true;
    }
    if (!protocol_.answer(connection)) return false;
    note_members(protocol_.members());
    return flush(client);
  }

  // Replies to other connections are sent when poll() reports that they can be sent.
  static bool flush(Client& client) {
    std::string& out = client.connection->out;
    while (!out.empty()) {
      const ssize_t sent = send(client.socket.get(), out.data(), out.size(), MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      out.erase(0, static_cast<std::size_t>(sent));
    }
    return !client.connection->is_over();
  }

  void note_members(int count) {
    const std::lock_guard lock(mutex_);
    members_ = count;
    if (members_ == 0) idle_.notify_all();
  }

  const StoreLimits limits_;
  StoreProtocol protocol_;
  base::Fd listener_;
  const int port_;
  const base::Fd wake_;
  Deadline accept_again_ = Deadline::min();
  std::list<Client> clients_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> refusing_{false};
  mutable std::mutex mutex_;  // guards members_
  int members_ = 0;
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

}  // namespace syncbn::rendezvous
