// SPDX-License-Identifier: Apache-2.0

// How ranks that know nothing about each other's calls can sum safely
//
// An engine offers one operation: a SUM all-reduce of int64 words in which every rank passes the same number
// of words. So the number of words depends on nothing but the *verified common history*: the calls on which
// all ranks are known to have agreed. docs/design.md, section 4.2, has the protocol and its reasons. In
// short:
//
//   header   1, failed, then v and v² for each field v of the call        kHeaderWords words
//   payload  its first `room` words, padded with zeros if it is shorter   room words
//
// `room` is the length of the payload that came next when the previous verified call was last made, else 64.
// The sums tell every rank whether all W ranks passed the same v:
//
//   W · Σv² ≥ (Σv)²  by Cauchy and Schwarz, and both sides are equal if and only if all v are equal.
//
// A field has 23 bits. So Σv² is less than 2^16 · 2^46 for 2^16 ranks and fits a word. The two sides need 128
// bits. If all fields agree and no rank failed, the rest of the payload follows in a second message. Else a
// second message has a slot of fixed size for each rank, with zeros in the slots of others: its sum is the
// table of all reports, from which all ranks derive the same error.
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

Fields fields_of(const CallNumbers& mine) {
  return {mine.number & kFieldMask, mine.words & kFieldMask, (mine.words >> kFieldBits) & kFieldMask,
          mine.hash & kFieldMask,   mine.hash >> kFieldBits, mine.place & kFieldMask};
}

void write_header(const CallNumbers& mine, std::span<std::int64_t> header) {
  header[0] = 1;
  header[1] = mine.failed;
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

// Starts the first message: the header and the part of the payload that fits `room`.
std::span<const std::int64_t> send_first(Communicator& communicator, const CallNumbers& mine,
                                         std::span<const std::int64_t> payload, std::size_t room) {
  return send(communicator, kHeaderWords + room, [&](std::span<std::int64_t> message) {
    write_header(mine, message.first(kHeaderWords));
    copy_padded(payload, message.subspan(kHeaderWords));
  });
}

// False: a rank failed, or not all ranks make the same call.
bool calls_agree(std::span<const std::int64_t> sums, int size) {
  check_all_counted(sums[0], size);
  return sums[1] == 0 && all_agree(sums, size);
}

// The second message if the calls do not agree. Returns the reports of all ranks.
std::vector<RankReport> exchange_reports(Communicator& communicator, const RankReport& mine,
                                         Deadline deadline) {
  const auto size = static_cast<std::size_t>(communicator.size());
  const auto slot = static_cast<std::size_t>(communicator.rank()) * kReportWords;
  const auto table = send(communicator, size * kReportWords, [&](std::span<std::int64_t> message) {
    std::fill(message.begin(), message.end(), 0);
    write_slot(mine, message.subspan(slot, kReportWords));
  });
  communicator.wait(deadline);
  std::vector<RankReport> reports;
  for (std::size_t r = 0; r < size; ++r)
    reports.push_back(read_slot(table.subspan(r * kReportWords, kReportWords)));
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
  const auto first_mixed = first_mixed_call(call, reports);
  std::string text;
  if (first_mixed && *first_mixed <= verified_calls_)
    text = fmt::format("sums may have been mixed from call {} on; ", *first_mixed);
  text +=
      "these layers are distinguished by their order of construction and of first calls: keep both orders on "
      "all ranks, or give the layers different names";
  if (!call.naming.empty()) text += fmt::format(" ({})", call.naming);
  return text;
}

// The first call that may have mixed layers, the same on all ranks. If one layer is new on all ranks, their
// places show it. If it is new on some ranks only, one of them may have left out any layer before; places of
// several layers show nothing. Then it is the first call of any layer of these names. None if all ranks know
// their layer: they call known layers in another order.
std::optional<std::int64_t> AgreedSum::first_mixed_call(const CallDescription& call,
                                                        const std::vector<RankReport>& reports) const {
  std::int64_t low = std::numeric_limits<std::int64_t>::max(), high = 0;
  bool all_new = call.layers.size() == 1, all_known = all_new;
  for (const RankReport& report : reports) {
    if (report.failed != 0) continue;
    const Place place = Place::of_code(report.place);
    all_new = all_new && place.is_first_sum;
    all_known = all_known && !place.is_first_sum;
    low = std::min(low, place.position);
    high = std::max(high, place.position);
  }
  if (all_new) return places_.first_mixed_call(call.layers.front(), low, high);
  if (all_known) return std::nullopt;
  std::int64_t first = verified_calls_ + 1;
  for (const LayerReference& layer : call.layers)
    first = std::min(first, places_.first_call(layer.name).value_or(first));
  return first;
}

void AgreedSum::sum(Communicator& communicator, const CallDescription& call, std::span<std::int64_t> payload,
                    Deadline deadline) {
  start(communicator, call, payload);
  wait(communicator, deadline);
}

void AgreedSum::start(Communicator& communicator, const CallDescription& call,
                      std::span<std::int64_t> payload) {
  const CallNumbers mine{0, verified_calls_ + 1, static_cast<std::int64_t>(payload.size()), hash_of(call),
                         take_places(call)};
  in_flight_ = {&call, mine, payload, send_first(communicator, mine, payload, room())};
}

void AgreedSum::wait(Communicator& communicator, Deadline deadline) {
  const InFlight mine = *std::exchange(in_flight_, std::nullopt);
  communicator.wait(deadline);
  if (!calls_agree(mine.message, communicator.size())) {
    const CallDescription& call = *mine.call;
    const std::vector<RankReport> reports =
        exchange_reports(communicator, {mine.numbers, call.subject, call.settings}, deadline);
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
  remember({mine.numbers.hash, mine.numbers.words});
}

void AgreedSum::fail(Communicator& communicator, const CallDescription& call, const std::string& reason,
                     Deadline deadline) {
  const RankReport mine{{1, verified_calls_ + 1, 0, hash_of(call)}, call.subject, reason};
  const auto sums = send_first(communicator, mine, {}, room());
  communicator.wait(deadline);
  check_all_counted(sums[0], communicator.size());
  exchange_reports(communicator, mine, deadline);
}

}  // namespace syncbn::group
