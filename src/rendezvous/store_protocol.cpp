// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/store_protocol.h"

#include <fmt/core.h>

namespace syncbn::rendezvous {
namespace {

// Bytes of a map's node and two string headers. They are counted, so that many small keys do not exceed the
// limit unnoticed.
constexpr std::size_t kEntrySize = 128;
constexpr std::size_t kMaxDigits = 20;  // of a list's counter

std::size_t entry_size(std::string_view key, std::size_t value_size) {
  return key.size() + value_size + kEntrySize;
}

// Maximum size of an append: the entry, and the counter of the list if the entry is the first.
std::size_t append_size(std::string_view list, std::string_view value) {
  return entry_size(list, 1 + kMaxDigits + value.size()) + entry_size(list, sizeof(std::uint64_t));
}

// Compares in a time that does not depend on the position of the first difference.
bool equal_secrets(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned>(a[i] ^ b[i]);
  return difference == 0;
}

std::size_t max_body(const StoreProtocol::Connection& connection) {
  return connection.is_member() ? wire::kMaxBody : wire::kMaxHelloBody;
}

}  // namespace

bool StoreProtocol::Connection::has_request() const {
  const auto size = wire::body_size(in);
  return size && (*size > max_body(*this) || in.size() >= 4 + *size);
}

StoreProtocol::StoreProtocol(std::string token, const StoreLimits& limits)
    : token_(std::move(token)), limits_(limits) {}

StoreProtocol::Handle StoreProtocol::connect() {
  connections_.emplace_back();
  return std::prev(connections_.end());
}

void StoreProtocol::disconnect(Handle connection) {
  const auto last = std::move(connection->on_disconnect_);
  if (connection->is_member()) --members_;
  connections_.erase(connection);
  if (!last) return;
  held_ -= append_size(last->first, last->second);  // the reserved room
  append(last->first, last->second);
}

bool StoreProtocol::answer(Connection& connection) {
  const std::size_t size = *wire::body_size(connection.in);
  if (size > max_body(connection)) return false;
  const auto request = wire::decode_request(std::string_view(connection.in).substr(4, size));
  if (!request || !answer(connection, *request)) return false;
  connection.in.erase(0, 4 + size);
  return true;
}

// Returns false if the request does not follow the protocol.
bool StoreProtocol::answer(Connection& connection, const wire::Request& request) {
  using wire::Operation;
  if (connection.is_member() != (request.operation != Operation::hello)) return false;
  connection.waits_.reset();  // a client has one request in flight, so it has given up the former one
  switch (request.operation) {
    case Operation::hello:
      if (!request.key.starts_with(wire::kHelloName)) return false;
      greet(connection, request);
      return true;
    case Operation::set:
      if (reply_if_room(connection, request, entry_size(request.key, request.value.size())))
        publish(request.key, request.value);
      return true;
    case Operation::get:
      if (const auto found = values_.find(request.key); found != values_.end())
        connection.out += wire::encode({request.number, wire::Status::done, found->second});
      else
        connection.waits_.emplace(request.number, request.key);
      return true;
    case Operation::add: {
      if (request.value.size() != 8) return false;
      std::string_view delta = request.value;
      const std::string name(request.key);
      if (!counters_.contains(name) && !room_for(entry_size(name, sizeof(std::uint64_t)))) {
        connection.out += wire::encode({request.number, wire::Status::full, {}});
        return true;
      }
      std::string sum;
      wire::put(sum, counter(name) += wire::take<std::uint64_t>(delta));
      connection.out += wire::encode({request.number, wire::Status::done, sum});
      return true;
    }
    case Operation::append:
      if (reply_if_room(connection, request, append_size(request.key, request.value)))
        append(request.key, request.value);
      return true;
    case Operation::append_on_disconnect: {
      // Room is reserved now, because on disconnect no client can get an answer.
      const std::size_t size = append_size(request.key, request.value);
      if (!reply_if_room(connection, request, size)) return true;
      if (connection.on_disconnect_)
        held_ -= append_size(connection.on_disconnect_->first, connection.on_disconnect_->second);
      connection.on_disconnect_.emplace(request.key, request.value);
      held_ += size;
      return true;
    }
  }
  return false;
}

void StoreProtocol::greet(Connection& connection, const wire::Request& request) {
  if (request.key != wire::kHello) {  // another version: the refusal says which this is
    connection.over_ = true;
    connection.out += wire::encode({request.number, wire::Status::refused, wire::kHello});
    return;
  }
  const bool knows = equal_secrets(request.value, token_);
  connection.member_ = knows && members_ < limits_.members;
  connection.over_ = !connection.member_;
  if (connection.member_) ++members_;
  const wire::Status without = knows ? wire::Status::full : wire::Status::refused;
  connection.out += wire::encode({request.number, connection.member_ ? wire::Status::done : without, {}});
}

bool StoreProtocol::room_for(std::size_t size) const {
  return held_ <= limits_.held_bytes && size <= limits_.held_bytes - held_;
}

bool StoreProtocol::reply_if_room(Connection& connection, const wire::Request& request, std::size_t size) {
  const bool room = room_for(size);
  connection.out += wire::encode({request.number, room ? wire::Status::done : wire::Status::full, {}});
  return room;
}

void StoreProtocol::publish(std::string_view key, std::string_view value) {
  const auto [entry, is_new] = values_.try_emplace(std::string(key));
  if (!is_new) held_ -= entry_size(key, entry->second.size());
  entry->second = value;
  held_ += entry_size(key, value.size());
  for (Connection& connection : connections_) {
    if (!connection.waits_ || connection.waits_->second != key) continue;
    connection.out += wire::encode({connection.waits_->first, wire::Status::done, value});
    connection.waits_.reset();
  }
}

// A counter starts at 0.
std::uint64_t& StoreProtocol::counter(const std::string& name) {
  const auto [entry, is_new] = counters_.try_emplace(name);
  if (is_new) held_ += entry_size(name, sizeof(std::uint64_t));
  return entry->second;
}

void StoreProtocol::append(std::string_view list, std::string_view value) {
  publish(fmt::format("{}/{}", list, counter(std::string(list))++), value);
}

}  // namespace syncbn::rendezvous
