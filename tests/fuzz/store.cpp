// SPDX-License-Identifier: Apache-2.0

// The store's protocol, as several clients drive it with whole, cut and hostile requests: every answer, who
// is dropped, and what is held are those of a plain model, which reads the same bytes with its own eyes.
//
// control: with `held_ -=` left out where a will is replaced, with the size of a stranger's request taken
// from kMaxBody, or with the waiting get not forgotten at the next request, a run from the corpus fails
// within seconds.
#include <fmt/core.h>

#include <array>
#include <map>
#include <optional>
#include <utility>

#include "fuzz/input.h"
#include "rendezvous/store_protocol.h"

namespace {

using syncbn::rendezvous::StoreProtocol;

constexpr int kClients = 4;
constexpr int kMembers = 3;          // so that one may be refused
constexpr std::size_t kHeld = 2500;  // a few entries
constexpr std::string_view kToken = "a token";

std::string number(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 255);
  return text;
}

std::uint64_t number(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return value;
}

std::string frame(const std::string& body) { return number(body.size(), 4) + body; }

std::string request(std::uint64_t serial, char operation, std::string_view key, std::string_view value) {
  return frame(number(serial, 4) + operation + number(key.size(), 4) + std::string(key) + std::string(value));
}

// A client as the model knows it.
struct Client {
  bool member = false, over = false;
  std::string in, out;
  std::optional<std::pair<std::string, std::string>> waits;  // number, key
  std::optional<std::pair<std::string, std::string>> will;   // list, value
};

// What is said of the board in store.h and store_wire.h, in the plainest way.
class Model {
 public:
  std::array<std::optional<Client>, kClients> clients;

  int members() const {
    int count = 0;
    for (const auto& client : clients) count += client && client->member ? 1 : 0;
    return count;
  }

  std::size_t held() const {
    std::size_t bytes = 0;
    for (const auto& [key, value] : values_) bytes += key.size() + value.size() + 128;
    for (const auto& [key, count] : counters_) bytes += key.size() + 8 + 128;
    for (const auto& client : clients)
      if (client && client->will) bytes += append_size(client->will->first, client->will->second);
    return bytes;
  }

  void disconnect(std::optional<Client>& client) {
    const auto will = client->will;
    client.reset();
    if (will) append(will->first, will->second);
  }

  // Whether there is something to answer.
  static bool has_request(const Client& client) {
    if (client.in.size() < 4) return false;
    const std::uint64_t size = number(client.in.substr(0, 4));
    return size > most(client) || client.in.size() - 4 >= size;
  }

  // False: the client is to be dropped.
  bool answer(Client& client) {
    const std::uint64_t size = number(client.in.substr(0, 4));
    if (size > most(client) || size < 9) return false;
    const std::string body = client.in.substr(4, size);
    const std::string serial = body.substr(0, 4);
    const char operation = body[4];
    const std::uint64_t key_size = number(body.substr(5, 4));
    if (key_size > size - 9) return false;
    const std::string key = body.substr(9, key_size);
    const std::string value = body.substr(9 + key_size);
    if ((operation == 'h') == client.member) return false;
    client.waits.reset();
    const auto reply = [&](char status, const std::string& content = "") {
      client.out += frame(serial + status + content);
    };
    const auto reply_if_room = [&](std::size_t bytes) {
      const bool room = held() + bytes <= kHeld;
      reply(room ? 'd' : 'f');
      return room;
    };
    if (operation == 'h') {
      if (key != "syncbn store 1") return false;
      const bool knows = value == kToken;
      const bool room = members() < kMembers;
      client.member = knows && room;
      client.over = !client.member;
      reply(client.member ? 'd' : knows ? 'f' : 'r');
    } else if (operation == 's') {
      if (reply_if_room(key.size() + value.size() + 128)) set(key, value);
    } else if (operation == 'g') {
      if (values_.contains(key))
        reply('d', values_[key]);
      else
        client.waits = {serial, key};
    } else if (operation == 'a') {
      if (value.size() != 8) return false;
      if (counters_.contains(key) || held() + key.size() + 8 + 128 <= kHeld)
        reply('d', number(counters_[key] += number(value), 8));
      else
        reply('f');
    } else if (operation == 'p') {
      if (reply_if_room(append_size(key, value))) append(key, value);
    } else if (operation == 'w') {
      if (reply_if_room(append_size(key, value))) client.will = {key, value};
    } else {
      return false;
    }
    client.in.erase(0, 4 + size);
    return true;
  }

 private:
  static std::uint64_t most(const Client& client) { return client.member ? 1 << 20 : 4096; }
  static std::size_t append_size(const std::string& list, const std::string& value) {
    return list.size() + 21 + value.size() + 128 + list.size() + 8 + 128;
  }

  void set(const std::string& key, const std::string& value) {
    values_[key] = value;
    for (auto& client : clients) {
      if (!client || !client->waits || client->waits->second != key) continue;
      client->out += frame(client->waits->first + 'd' + value);
      client->waits.reset();
    }
  }

  void append(const std::string& list, const std::string& value) {
    set(fmt::format("{}/{}", list, counters_[list]++), value);
  }

  std::map<std::string, std::string> values_;
  std::map<std::string, std::uint64_t> counters_;
};

// The store and the model side by side.
class Pair {
 public:
  bool is_connected(int i) const { return of(i).has_value(); }

  void connect(int i) {
    of(i).emplace();
    handle(i) = store_.connect();
  }

  void disconnect(int i) {
    store_.disconnect(handle(i));
    model_.disconnect(of(i));
    check();
  }

  // As the server does: nothing more is read while an answer is unsent or a request unanswered.
  void receive(int i, std::string_view bytes) {
    if (!handle(i)->out.empty() || handle(i)->has_request()) return;
    handle(i)->in += bytes;
    of(i)->in += bytes;
    answer(i);
  }

  void send(int i, std::size_t bytes) {
    handle(i)->out.erase(0, bytes);
    of(i)->out.erase(0, bytes);
    if (handle(i)->out.empty() && handle(i)->is_over()) return disconnect(i);
    answer(i);
  }

 private:
  void answer(int i) {
    fuzz::expect(handle(i)->has_request() == Model::has_request(*of(i)), "whether there is a request");
    while (handle(i)->out.empty() && handle(i)->has_request()) {
      const bool good = store_.answer(*handle(i));
      fuzz::expect(good == model_.answer(*of(i)), "whether it is a request of the protocol");
      if (!good) return disconnect(i);
      check();
    }
  }

  void check() {
    for (int i = 0; i < kClients; ++i) {
      if (!of(i)) continue;
      fuzz::expect(handle(i)->in == of(i)->in, fmt::format("what is left to read from client {}", i));
      fuzz::expect(handle(i)->out == of(i)->out, fmt::format("what client {} is sent", i));
      fuzz::expect(handle(i)->is_member() == of(i)->member && handle(i)->is_over() == of(i)->over,
                   fmt::format("what client {} is", i));
    }
    fuzz::expect(store_.members() == model_.members(), "number of members");
    fuzz::expect(store_.held_bytes() == model_.held() && store_.held_bytes() <= kHeld, "what is held");
  }

  std::optional<Client>& of(int i) { return model_.clients[static_cast<std::size_t>(i)]; }
  const std::optional<Client>& of(int i) const { return model_.clients[static_cast<std::size_t>(i)]; }
  StoreProtocol::Handle& handle(int i) { return handles_[static_cast<std::size_t>(i)]; }

  StoreProtocol store_{std::string(kToken), {.members = kMembers, .held_bytes = kHeld}};
  Model model_;
  std::array<StoreProtocol::Handle, kClients> handles_;
};

std::string whole_request(fuzz::Input& input) {
  static constexpr std::string_view kKeys[] = {"", "k", "k/0", "k/1", "list", "list/0"};
  const auto kind = input.below(8);
  const auto serial = input.take<std::uint8_t>();
  if (kind >= 6) return request(serial, 'h', "syncbn store 1", kind == 6 ? kToken : "another");
  const std::string_view key = kKeys[input.below(std::size(kKeys))];
  if (kind == 0) return request(serial, 'a', key, number(input.take<std::uint64_t>(), 8));
  const auto value = input.bytes(input.take<std::uint8_t>());
  return request(serial, "sgpws"[kind - 1], key, value);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  Pair pair;
  std::array<std::string, kClients> on_their_way;  // a client's bytes that have not arrived
  while (!input.empty()) {
    const auto action = input.take<std::uint8_t>();
    const int client = action & 3;
    std::string& bytes = on_their_way[static_cast<std::size_t>(client)];
    if (!pair.is_connected(client)) {
      pair.connect(client);
      bytes = (action & 4) != 0 ? request(0, 'h', "syncbn store 1", kToken) : "";
    }
    switch (action >> 3 & 7) {
      case 0:
        pair.disconnect(client);
        break;
      case 1:
        bytes += input.bytes(input.take<std::uint8_t>());
        break;
      case 2:
        pair.send(client, input.take<std::uint8_t>());
        break;
      case 3: {
        const std::size_t some = std::min<std::size_t>(input.take<std::uint8_t>(), bytes.size());
        pair.receive(client, bytes.substr(0, some));
        bytes.erase(0, some);
        break;
      }
      case 4:
      case 5:
        bytes += whole_request(input);
        [[fallthrough]];
      default:
        pair.send(client, SIZE_MAX);
        if (!pair.is_connected(client)) break;
        pair.receive(client, bytes);
        bytes.clear();
    }
  }
  return 0;
}
