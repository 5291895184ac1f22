// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

/// The wire format between TcpStore and StoreServer. A frame is a 32-bit length and a body; integers are
/// little-endian. The body of a request is number, operation, key length, key, value. The body of a reply is
/// number, status, value. The number identifies late replies to requests for which the client no longer
/// waits.
namespace syncbn::rendezvous::wire {

// Key of the first request, whose value is the token: a name that no version changes, and this version.
inline constexpr std::string_view kHelloName = "syncbn store ";
inline constexpr std::string_view kHello = "syncbn store 1";
inline constexpr std::size_t kMaxBody = 1 << 20;
inline constexpr std::size_t kMaxContent = kMaxBody - 16;  // key and value together
inline constexpr std::size_t kMaxHelloBody = 4096;         // limit for clients without the token
// Time for either side to prove that it speaks this protocol.
inline constexpr std::chrono::seconds kHelloTime{10};

enum class Operation : std::uint8_t {
  hello = 'h',
  set = 's',
  get = 'g',
  add = 'a',
  append = 'p',
  append_on_disconnect = 'w'
};
enum class Status : std::uint8_t { done = 'd', refused = 'r', full = 'f' };

template <class T>
void put(std::string& bytes, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

/// Removes an integer from the front of `bytes`, which must be long enough.
template <class T>
T take(std::string_view& bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value |
                           static_cast<T>(static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i)));
  bytes.remove_prefix(sizeof(T));
  return value;
}

struct Request {
  std::uint32_t number = 0;
  Operation operation{};
  std::string_view key;
  std::string_view value;
};

struct Reply {
  std::uint32_t number = 0;
  Status status{};
  std::string_view value;
};

inline std::string encode(const Request& request) {
  std::string bytes;
  put(bytes, static_cast<std::uint32_t>(9 + request.key.size() + request.value.size()));
  put(bytes, request.number);
  put(bytes, static_cast<std::uint8_t>(request.operation));
  put(bytes, static_cast<std::uint32_t>(request.key.size()));
  return bytes.append(request.key).append(request.value);
}

inline std::string encode(const Reply& reply) {
  std::string bytes;
  put(bytes, static_cast<std::uint32_t>(5 + reply.value.size()));
  put(bytes, reply.number);
  put(bytes, static_cast<std::uint8_t>(reply.status));
  return bytes.append(reply.value);
}

/// The size of the body from the length at the front of `bytes`; none if the length is incomplete.
inline std::optional<std::size_t> body_size(std::string_view bytes) {
  if (bytes.size() < 4) return std::nullopt;
  return take<std::uint32_t>(bytes);
}

inline std::optional<Request> decode_request(std::string_view body) {
  if (body.size() < 9) return std::nullopt;
  Request request;
  request.number = take<std::uint32_t>(body);
  request.operation = static_cast<Operation>(take<std::uint8_t>(body));
  const auto key_size = take<std::uint32_t>(body);
  if (key_size > body.size()) return std::nullopt;
  request.key = body.substr(0, key_size);
  request.value = body.substr(key_size);
  return request;
}

inline std::optional<Reply> decode_reply(std::string_view body) {
  if (body.size() < 5) return std::nullopt;
  Reply reply;
  reply.number = take<std::uint32_t>(body);
  reply.status = static_cast<Status>(take<std::uint8_t>(body));
  reply.value = body;
  return reply;
}

}  // namespace syncbn::rendezvous::wire
