// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/tcp_store.h"

#include <fmt/core.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>

#include "base/interrupt.h"
#include "base/long_wait.h"
#include "rendezvous/store_wire.h"
#include "syncbn/error.h"

namespace syncbn::rendezvous {
namespace {

constexpr auto kReconnectPause = std::chrono::milliseconds(20);

}  // namespace

TcpStore::TcpStore(const std::string& host, int port, const std::string& token, Deadline deadline)
    : where_(fmt::format("{}:{}", host, port)), deadline_(deadline) {
  for (;;) {
    socket_ = connect_to(host, port, deadline);
    const Deadline answer_by = std::min(deadline, std::chrono::steady_clock::now() + wire::kHelloTime);
    try {
      request(wire::Operation::hello, wire::kHello, token, answer_by);
      return;
    } catch (const ConnectionLost& error) {  // the server is ending; the expected server may start later
      if (std::chrono::steady_clock::now() >= deadline) throw;
      const base::WaitPhrase phrase([&error] { return fmt::format("for an answer ({})", error.what()); });
      base::check_interrupt();
      in_.clear();
      std::this_thread::sleep_for(kReconnectPause);
    } catch (const TimeoutError& error) {
      if (answer_by == deadline) throw;
      throw PeerError(
          fmt::format("{} of a syncbn store within {} s", error.what(), wire::kHelloTime.count()));
    }
  }
}

void TcpStore::set(std::string_view key, std::string_view value) { change(wire::Operation::set, key, value); }

void TcpStore::append(std::string_view list, std::string_view value) {
  change(wire::Operation::append, list, value);
}

void TcpStore::append_on_disconnect(std::string_view list, std::string_view value) {
  change(wire::Operation::append_on_disconnect, list, value);
}

void TcpStore::set_deadline(Deadline deadline) { deadline_ = deadline; }

void TcpStore::interrupt() noexcept { shutdown(socket_.get(), SHUT_RDWR); }

void TcpStore::change(wire::Operation operation, std::string_view key, std::string_view value) {
  if (key.size() + value.size() > wire::kMaxContent)
    throw InvalidArgument(fmt::format("rendezvous {}: key and value have {} bytes, allowed are {}", where_,
                                      key.size() + value.size(), wire::kMaxContent));
  request(operation, key, value, deadline_);
}

std::string TcpStore::get(std::string_view key, Deadline deadline) {
  return request(wire::Operation::get, key, {}, deadline);
}

std::int64_t TcpStore::add(std::string_view key, std::int64_t delta) {
  std::string value;
  wire::put(value, static_cast<std::uint64_t>(delta));
  const std::string sum = request(wire::Operation::add, key, value, deadline_);
  std::string_view bytes = sum;
  if (bytes.size() != 8)
    throw PeerError(fmt::format("rendezvous {}: not an answer of a syncbn store", where_));
  return static_cast<std::int64_t>(wire::take<std::uint64_t>(bytes));
}

std::string TcpStore::request(wire::Operation operation, std::string_view key, std::string_view value,
                              Deadline deadline) {
  const std::lock_guard lock(mutex_);
  const auto context = [&](const std::exception& error) {
    return key == wire::kHello ? fmt::format("rendezvous {}: {}", where_, error.what())
                               : fmt::format("rendezvous {}, key '{}': {}", where_, key, error.what());
  };
  try {
    const std::uint32_t number = ++number_;
    send_all(socket_.get(), wire::encode({number, operation, key, value}), deadline);
    for (;;) {
      const auto size = wire::body_size(in_);
      if (size > wire::kMaxBody) throw PeerError("not an answer of a syncbn store");
      if (!size || in_.size() < 4 + *size) {
        recv_some(socket_.get(), in_, deadline);
        continue;
      }
      const std::string body = in_.substr(4, *size);
      in_.erase(0, 4 + *size);
      const auto reply = wire::decode_reply(body);
      if (!reply) throw PeerError("not an answer of a syncbn store");
      if (reply->number != number) continue;  // a late reply to a get() that was given up
      if (reply->status == wire::Status::full)
        throw StoreFull(key == wire::kHello ? "the store is full: it may serve no more connections"
                                            : "the store is full: it may hold no more keys and values");
      if (reply->status != wire::Status::done && !reply->value.empty())
        throw PeerError(
            fmt::format("the store speaks '{}', this process '{}': install the same version of "
                        "syncbn on all nodes",
                        reply->value, wire::kHello));
      if (reply->status != wire::Status::done)
        throw TokenRefused("the job's token was refused (SYNCBN_TOKEN)");
      return std::string(reply->value);
    }
  } catch (const TimeoutError& error) {
    throw TimeoutError(context(error));
  } catch (const ConnectionLost& error) {
    throw ConnectionLost(context(error));
  } catch (const TokenRefused& error) {
    throw TokenRefused(context(error));
  } catch (const StoreFull& error) {
    throw StoreFull(context(error));
  } catch (const PeerError& error) {
    throw PeerError(context(error));
  }
}

}  // namespace syncbn::rendezvous
