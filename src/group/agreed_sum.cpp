// How ranks that know nothing of each other's calls may sum without risk
//
// An engine can do one thing: a SUM all-reduce of int64 words to which every rank brings the same number of
// words. With unequal numbers Gloo ends the process and Open MPI may return wrong sums, so the number must
// never depend on what this rank believes is being called: its belief may be wrong. It depends on *verified
// common history* only, on what all ranks are known to have agreed on. All ranks begin with the same, empty
// history.
//
// One call, the usual way: one message.
//
//   header   1, failed, then v and v² for each field v of the call        kHeaderWords words
//   payload  its first `room` words, zeros behind a shorter one            room words
//
// `room` is the payload length that followed the previous verified call the last time that call was made,
// else 64 words. A training loop repeats itself, so after its first round every payload fits its room
// exactly.
//
// A field is 23 bits wide: the call's number, the payload's length, the hash of the texts; wider values take
// two. The sum tells every rank whether all W ranks brought the same v:
//
//   W · Σv² ≥ (Σv)²  by Cauchy and Schwarz, and they are equal exactly where all v are equal.
//
// Σv² < 2^16 · 2^46 fits a word for 2^16 ranks; the two sides need 128 bits. All ranks see the same sums,
// hence reach the same verdict:
//
// - Good: all fields agree and nobody failed. What did not fit the room follows in a second message, whose
//   length is now common knowledge. Then the call enters the history.
// - Bad: one second message with a slot of fixed size for each rank, zeros in the others', so that its sum is
//   the table of who brought what. From it all ranks make the same error, and the group is given up.
//
// A rank that can't make its call (its argument is wrong) takes part with failed = 1: its peers learn it at
// once and in its own words. Where the sum of the leading ones isn't W, the engine lost or doubled a rank,
// and nothing it sums can be trusted.
//
// What this can't see: a rank that never calls (the deadline does), foreign collectives on the engine's
// channel, and different texts with the same 46 bits of hash (one pair in 7 · 10^13).
#include "group/agreed_sum.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "group/verdict.h"
#include "syncbn/error.h"

namespace syncbn::group {
namespace {

constexpr std::size_t kFirstRoom = 64;  // holds a forward of two float32 channels
constexpr int kFieldBits = 23;
constexpr std::int64_t kFieldMask = (std::int64_t{1} << kFieldBits) - 1;
constexpr std::size_t kFields = 5;
constexpr std::size_t kHeaderWords = 2 + 2 * kFields;
// Calls remembered: a program of ever new calls must not fill the memory.
constexpr std::size_t kMaxHistory = 4096;

// FNV-1a over both texts, a zero between them, then the mixer of splitmix64: every bit depends on every byte.
std::int64_t hash_of(const Call& call) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto take = [&hash](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    hash *= 0x100000001b3u;
  };
  take(call.subject);
  take(call.settings);
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
  hash ^= hash >> 31;
  return static_cast<std::int64_t>(hash & ((std::uint64_t{1} << 2 * kFieldBits) - 1));
}

using Fields = std::array<std::int64_t, kFields>;

// What the header says of a call.
struct Identity {
  bool failed;
  std::int64_t number, words, hash;
};

Fields fields_of(const Identity& mine) {
  return {mine.number & kFieldMask, mine.words & kFieldMask, (mine.words >> kFieldBits) & kFieldMask,
          mine.hash & kFieldMask, mine.hash >> kFieldBits};
}

void write_header(const Identity& mine, std::span<std::int64_t> header) {
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

// Sends one message, whose words `write` fills. The sums stand in it after the engine's wait().
template <class Write>
std::span<const std::int64_t> send(Communicator& communicator, std::size_t words, Write write) {
  const std::span<std::int64_t> buffer = communicator.buffer(words);
  if (buffer.size() < words) {  // an engine of the caller's own
    throw PeerError(fmt::format("the engine gave a buffer of {} words, asked for {}", buffer.size(), words));
  }
  const std::span<std::int64_t> message = buffer.first(words);
  write(message);
  communicator.start(words);
  return message;
}

void copy_padded(std::span<const std::int64_t> from, std::span<std::int64_t> to) {
  const std::size_t count = std::min(from.size(), to.size());
  std::fill(std::copy_n(from.begin(), count, to.begin()), to.end(), 0);
}

enum class Verdict { good, bad };

// The first message: header, and what of the payload fits `room`.
std::span<const std::int64_t> send_first(Communicator& communicator, const Identity& mine,
                                         std::span<const std::int64_t> payload, std::size_t room) {
  return send(communicator, kHeaderWords + room, [&](std::span<std::int64_t> message) {
    write_header(mine, message.first(kHeaderWords));
    copy_padded(payload, message.subspan(kHeaderWords));
  });
}

Verdict judge(std::span<const std::int64_t> sums, int size) {
  if (sums[0] != size) {
    throw PeerError(fmt::format("the engine summed {} ranks where the group has {}: it lost or doubled one",
                                sums[0], size));
  }
  return sums[1] != 0 || !all_agree(sums, size) ? Verdict::bad : Verdict::good;
}

// The second message where the verdict was bad.
std::vector<Brought> tell_who_brought_what(Communicator& communicator, const Brought& mine,
                                           Deadline deadline) {
  const auto size = static_cast<std::size_t>(communicator.size());
  const auto slot = static_cast<std::size_t>(communicator.rank()) * kSlotWords;
  const auto table = send(communicator, size * kSlotWords, [&](std::span<std::int64_t> message) {
    std::fill(message.begin(), message.end(), 0);
    write_slot(mine, message.subspan(slot, kSlotWords));
  });
  communicator.wait(deadline);
  std::vector<Brought> ranks;
  for (std::size_t r = 0; r < size; ++r)
    ranks.push_back(read_slot(table.subspan(r * kSlotWords, kSlotWords)));
  return ranks;
}

}  // namespace

std::size_t AgreedSum::predicted_words() const {
  const auto follower = followers_.find(last_);
  return follower == followers_.end() ? kFirstRoom : follower->second;
}

void AgreedSum::remember(const Key& verified) {
  if (followers_.size() >= kMaxHistory) followers_.clear();  // at the same call on every rank
  followers_[last_] = static_cast<std::size_t>(verified.second);
  last_ = verified;
  ++verified_calls_;
}

void AgreedSum::sum(Communicator& communicator, const Call& call, std::span<std::int64_t> payload,
                    Deadline deadline) {
  start(communicator, call, payload);
  finish(communicator, deadline);
}

void AgreedSum::start(Communicator& communicator, const Call& call, std::span<std::int64_t> payload) {
  const std::int64_t hash = hash_of(call);
  const Identity mine{false, verified_calls_ + 1, static_cast<std::int64_t>(payload.size()), hash};
  started_ = {&call, hash, payload, send_first(communicator, mine, payload, predicted_words())};
}

void AgreedSum::finish(Communicator& communicator, Deadline deadline) {
  const Started mine = *std::exchange(started_, std::nullopt);
  const auto words = static_cast<std::int64_t>(mine.payload.size());
  communicator.wait(deadline);
  if (judge(mine.message, communicator.size()) == Verdict::bad) {
    throw_verdict(tell_who_brought_what(
        communicator, {false, verified_calls_ + 1, words, mine.hash, mine.call->subject, mine.call->settings},
        deadline));
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

void AgreedSum::fail(Communicator& communicator, const Call& call, const std::string& reason,
                     Deadline deadline) {
  const Brought mine{true, verified_calls_ + 1, 0, hash_of(call), call.subject, reason};
  const auto sums =
      send_first(communicator, {true, mine.number, mine.words, mine.hash}, {}, predicted_words());
  communicator.wait(deadline);
  judge(sums, communicator.size());
  tell_who_brought_what(communicator, mine, deadline);
}

}  // namespace syncbn::group
