// SPDX-License-Identifier: Apache-2.0

// How ranks that know nothing about each other's calls can sum safely
//
// An engine offers one operation: a SUM all-reduce of int64 words in which every rank passes the same number
// of words. If the numbers differ, Gloo ends the process and Open MPI may return wrong sums. So the number of
// words must not depend on the call that this rank believes is being made, because that belief may be wrong.
// It depends only on the *verified common history*: the calls on which all ranks are known to have agreed.
// Every rank starts with an empty history.
//
// A call usually takes one message:
//
//   header   1, failed, then v and v² for each field v of the call        kHeaderWords words
//   payload  its first `room` words, padded with zeros if it is shorter   room words
//
// `room` is the length of the payload that came next when the previous verified call was last made. If that
// call has no known successor, `room` is 64. A training loop repeats the same sequence of calls. So after
// its first iteration every payload fits its room exactly.
//
// A field has 23 bits. The header has six of them: one for the number of the call, two for the length of the
// payload, two for the hash of the texts and one for the places of the call's layers. The sums tell every
// rank whether all W ranks passed the same v:
//
//   W · Σv² ≥ (Σv)²  by Cauchy and Schwarz, and both sides are equal if and only if all v are equal.
//
// Σv² is less than 2^16 · 2^46 for 2^16 ranks and fits a word. The two sides need 128 bits. All ranks see the
// same sums, so all ranks reach the same verdict:
//
// - Good: all fields agree and no rank failed. If the payload is longer than the room, the rest follows in a
//   second message. Its length is now verified. The call then enters the history.
// - Bad: a second message has a slot of fixed size for each rank. A rank fills its own slot and leaves zeros
//   in the others, so the sum is a table with the report of every rank. From the table all ranks derive the
//   same error, and the group is broken.
//
// A rank that cannot make its call, for example because its argument is wrong, takes part with failed = 1.
// Its peers then learn the reason at once, in that rank's words. If the first words do not add up to W, the
// engine lost a rank or counted one twice. None of its sums can then be trusted.
//
// Layers with the same name or with none are distinguished by their places (places.h). Places are no part of
// the texts and of the history, so a layer that is made anew for each call has the room of its predecessor.
// The header has the place of a single layer as it is, and a hash of several places.
//
// The protocol cannot detect a rank that never calls (the deadline does), foreign collectives on the engine's
// channel, different texts with equal hashes of 46 bits (one pair in 7 · 10^13), and a call of several layers
// of the same names whose other places have an equal hash of 23 bits (one in 8 million).
#include "group/agreed_sum.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "group/engine_buffer.h"
#include "syncbn/error.h"

namespace syncbn::group {
namespace {

constexpr std::size_t kFirstRoom = 64;  // enough for a forward of two float32 channels
constexpr int kFieldBits = 23;
constexpr std::int64_t kFieldMask = (std::int64_t{1} << kFieldBits) - 1;
constexpr std::size_t kFields = 6;
constexpr std::size_t kHeaderWords = 2 + 2 * kFields;
// Number of calls in the history. The limit bounds the memory of a program that never repeats a call.
constexpr std::size_t kMaxHistory = 4096;

std::int64_t hash_of(const CallDescription& call) { return call.hash ? *call.hash : hash_of_texts(call); }

using Fields = std::array<std::int64_t, kFields>;

// Contents of a header.
struct Header {
  bool failed;
  std::int64_t number, words, hash, place;
};

Fields fields_of(const Header& mine) {
  return {mine.number & kFieldMask, mine.words & kFieldMask, (mine.words >> kFieldBits) & kFieldMask,
          mine.hash & kFieldMask,   mine.hash >> kFieldBits, mine.place & kFieldMask};
}

void write_header(const Header& mine, std::span<std::int64_t> header) {
  header[0] = 1;
  header[1] = mine.failed ? 1 : 0;
  const Fields fields = fields_of(mine);
  for (std::size_t i = 0; i < kFields; ++i) {
    header[2 + 2 * i] = fields[i];
    header[3 + 2 * i] = fields[i] * fields[i];
  }
}

bool all_agree(std::span<const std::int64_t> sums, int size) {
  for (std::size_t i = 0; i < kFields; ++i) {
    const auto sum = static_cast<__int128>(sums[2 + 2 * i]);
    if (size * static_cast<__int128>(sums[3 + 2 * i]) != sum * sum) return false;
  }
  return true;
}

// Starts the sum of one message. `write` fills its words. The returned span holds the sums after the engine's
// wait().
template <class Write>
std::span<const std::int64_t> send(Communicator& communicator, std::size_t words, Write write) {
  const std::span<std::int64_t> message = engine_buffer(communicator, words);
  write(message);
  communicator.start(words);
  return message;
}

void copy_padded(std::span<const std::int64_t> from, std::span<std::int64_t> to) {
  const std::size_t count = std::min(from.size(), to.size());
  std::fill(std::copy_n(from.begin(), count, to.begin()), to.end(), 0);
}

enum class Verdict { good, bad };

// Starts the first message: the header and the part of the payload that fits `room`.
std::span<const std::int64_t> send_first(Communicator& communicator, const Header& mine,
                                         std::span<const std::int64_t> payload, std::size_t room) {
  return send(communicator, kHeaderWords + room, [&](std::span<std::int64_t> message) {
    write_header(mine, message.first(kHeaderWords));
    copy_padded(payload, message.subspan(kHeaderWords));
  });
}

Verdict judge(std::span<const std::int64_t> sums, int size) {
  if (sums[0] != size) {
    throw PeerError(fmt::format(
        "the engine summed {} ranks, but the group has {}: the engine lost a rank or counted one twice",
        sums[0], size));
  }
  return sums[1] != 0 || !all_agree(sums, size) ? Verdict::bad : Verdict::good;
}

// The second message after a bad verdict. Returns the reports of all ranks.
std::vector<RankReport> exchange_reports(Communicator& communicator, const RankReport& mine,
                                         Deadline deadline) {
  const auto size = static_cast<std::size_t>(communicator.size());
  const auto slot = static_cast<std::size_t>(communicator.rank()) * kSlotWords;
  const auto table = send(communicator, size * kSlotWords, [&](std::span<std::int64_t> message) {
    std::fill(message.begin(), message.end(), 0);
    write_slot(mine, message.subspan(slot, kSlotWords));
  });
  communicator.wait(deadline);
  std::vector<RankReport> reports;
  for (std::size_t r = 0; r < size; ++r)
    reports.push_back(read_slot(table.subspan(r * kSlotWords, kSlotWords)));
  return reports;
}

}  // namespace

// A zero byte follows each text, and every bit depends on every byte.
std::int64_t hash_of_texts(const CallDescription& call) {
  constexpr std::string_view kSeparator{"\0", 1};
  base::Fnv1a hash;
  for (const std::string* text : {&call.subject, &call.settings}) {
    hash.add(*text);
    hash.add(kSeparator);
  }
  return static_cast<std::int64_t>(base::mix_bits(hash.value()) & ((std::uint64_t{1} << 2 * kFieldBits) - 1));
}

std::size_t AgreedSum::room() const {
  const auto next = next_words_.find(last_);
  return next == next_words_.end() ? kFirstRoom : next->second;
}

void AgreedSum::remember(const Key& verified) {
  if (next_words_.size() >= kMaxHistory) next_words_.clear();  // at the same call on every rank
  next_words_[last_] = static_cast<std::size_t>(verified.second);
  last_ = verified;
  ++verified_calls_;
}

// Counts the call's layers and returns their places as one number: the code of a single layer's place, or a
// negative hash of several places.
std::int64_t AgreedSum::take_places(const CallDescription& call) {
  if (call.layers.empty()) return 0;
  if (call.layers.size() == 1) return places_.take(call.layers.front(), verified_calls_ + 1).code();
  std::uint64_t hash = 0;
  for (const LayerReference& layer : call.layers)
    hash = base::mix_bits(hash + static_cast<std::uint64_t>(places_.take(layer, verified_calls_ + 1).code()));
  return -1 - (static_cast<std::int64_t>(hash >> 1) & kFieldMask);
}

std::string AgreedSum::subject(const CallDescription& call) const {
  if (call.layers.size() != 1 || !call.layers.front().name.empty()) return call.subject;
  const auto number = places_.number_by_first_sum(call.layers.front());
  return number ? fmt::format("{} (number {} by first calls)", call.subject, *number) : call.subject;
}

// Advice for calls that differ in nothing but places.
std::string AgreedSum::way_out(const CallDescription& call, const std::vector<RankReport>& reports) const {
  std::string text =
      "these layers are distinguished by their order of construction and of first calls: keep both orders on "
      "all "
      "ranks, or give the layers different names";
  if (!call.naming.empty()) text += fmt::format(" ({})", call.naming);
  std::int64_t low = std::numeric_limits<std::int64_t>::max(), high = 0;
  for (const RankReport& report : reports) {
    if (report.failed) continue;
    if (report.place < 0 || !Place::of_code(report.place).is_first_sum) return text;
    low = std::min(low, Place::of_code(report.place).position);
    high = std::max(high, Place::of_code(report.place).position);
  }
  if (call.layers.empty()) return text;
  return fmt::format("sums may have been mixed from call {} on; {}",
                     places_.first_mixed_call(call.layers.front(), low, high), text);
}

void AgreedSum::sum(Communicator& communicator, const CallDescription& call, std::span<std::int64_t> payload,
                    Deadline deadline) {
  start(communicator, call, payload);
  wait(communicator, deadline);
}

void AgreedSum::start(Communicator& communicator, const CallDescription& call,
                      std::span<std::int64_t> payload) {
  const std::int64_t hash = hash_of(call);
  const std::int64_t place = take_places(call);
  const Header mine{false, verified_calls_ + 1, static_cast<std::int64_t>(payload.size()), hash, place};
  in_flight_ = {&call, hash, place, payload, send_first(communicator, mine, payload, room())};
}

void AgreedSum::wait(Communicator& communicator, Deadline deadline) {
  const InFlight mine = *std::exchange(in_flight_, std::nullopt);
  const auto words = static_cast<std::int64_t>(mine.payload.size());
  communicator.wait(deadline);
  if (judge(mine.message, communicator.size()) == Verdict::bad) {
    const CallDescription& call = *mine.call;
    const std::vector<RankReport> reports = exchange_reports(
        communicator, {false, verified_calls_ + 1, words, mine.hash, call.subject, call.settings, mine.place},
        deadline);
    throw_verdict(reports, way_out(call, reports));
  }
  const std::size_t sent = std::min(mine.message.size() - kHeaderWords, mine.payload.size());
  std::copy_n(mine.message.begin() + kHeaderWords, sent, mine.payload.begin());
  const std::span<std::int64_t> rest = mine.payload.subspan(sent);
  if (!rest.empty()) {
    const auto sums =
        send(communicator, rest.size(), [&](std::span<std::int64_t> message) { copy_padded(rest, message); });
    communicator.wait(deadline);
    std::copy(sums.begin(), sums.end(), rest.begin());
  }
  remember({mine.hash, words});
}

void AgreedSum::fail(Communicator& communicator, const CallDescription& call, const std::string& reason,
                     Deadline deadline) {
  const RankReport mine{true, verified_calls_ + 1, 0, hash_of(call), call.subject, reason};
  const auto sums = send_first(communicator, {true, mine.number, mine.words, mine.hash, 0}, {}, room());
  communicator.wait(deadline);
  judge(sums, communicator.size());
  exchange_reports(communicator, mine, deadline);
}

}  // namespace syncbn::group
