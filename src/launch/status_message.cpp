// A message is the place of its type in Word, one byte; the length of the rest, as an uint32_t; the rest, in
// the machine's own form: both ends are the same program.
#include "launch/status_message.h"

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace syncbn::launch {
namespace {

using Length = std::uint32_t;
constexpr std::size_t kHeader = 1 + sizeof(Length);

std::string body(const Progress& progress) {
  static_assert(std::is_trivially_copyable_v<Progress>);
  return {reinterpret_cast<const char*>(&progress), sizeof progress};
}
std::string body(const Started& started) {
  return {reinterpret_cast<const char*>(started.ranks.data()), started.ranks.size() * sizeof(int)};
}
std::string body(const Said& said) { return said.text; }
std::string body(const LetGo&) { return ""; }
std::string body(const Restarting& restarting) {
  return std::string(reinterpret_cast<const char*>(&restarting.restart), sizeof(int)) + restarting.text;
}

Word decode(std::size_t type, std::string_view body) {
  switch (type) {
    case 0: {
      Progress progress;
      std::memcpy(&progress, body.data(), sizeof progress);
      return progress;
    }
    case 1: {
      Started started;
      started.ranks.resize(body.size() / sizeof(int));
      body.copy(reinterpret_cast<char*>(started.ranks.data()),
                body.size());  // memcpy wants no null, even of size 0
      return started;
    }
    case 2:
      return Said{std::string(body)};
    case 3:
      return LetGo{};
    default: {
      Restarting restarting;
      std::memcpy(&restarting.restart, body.data(), sizeof(int));
      restarting.text = body.substr(sizeof(int));
      return restarting;
    }
  }
}

}  // namespace

std::string encode(const Word& word) {
  const std::string rest = std::visit([](const auto& each) { return body(each); }, word);
  const auto length = static_cast<Length>(rest.size());
  std::string message(1, static_cast<char>(word.index()));
  message.append(reinterpret_cast<const char*>(&length), sizeof length);
  return message + rest;
}

std::optional<Word> WordReader::next() {
  if (bytes_.size() < kHeader) return std::nullopt;
  Length length = 0;
  std::memcpy(&length, bytes_.data() + 1, sizeof length);
  if (bytes_.size() < kHeader + length) return std::nullopt;
  const auto type = static_cast<std::size_t>(bytes_[0]);
  Word word = decode(type, std::string_view(bytes_).substr(kHeader, length));
  bytes_.erase(0, kHeader + length);
  return word;
}

}  // namespace syncbn::launch
