// SPDX-License-Identifier: Apache-2.0
// How the processes of one host sum in shared memory
//
// Each rank has two slots; piece n of all messages, counted from 1, uses the slots of n's parity.
//
// Bring: a rank copies its words into its slot, then stores brought = n in its line. A rank that sees that all
// have brought piece n rings the bell.
//
// Await: a rank waits until all have brought n. It yields the processor for up to 1 ms, then sleeps on the
// bell.
//
// Sum: of 2 ranks, each adds the other's slot to its own words. Of 3 and more, the ranks that are awake claim
// parts of the sum and write them to the result; each waits until all parts are finished and copies the
// result. So a rank that another one keeps from its core costs little.
//
// Why two slots are enough: a rank completes n + 1 only after all have brought n + 1, and a rank brings n + 1
// only after it is done with n. So when a rank writes to the slots, the result or the counters of n + 2, no
// rank reads those of n any more.
//
// Why a death can't spoil a sum: no rank waits for another one that has brought its words. If a rank dies or
// is stopped within a part that it claimed, the others add up the slots for themselves after 20 ms. There is
// no counter of arrivals, so no rank can die between counting and ringing. If a rank dies before it rings the
// bell, the sleepers wake up by themselves within 100 ms. Then they also look which ranks have died without
// bringing their words.
//
// A rank that gives up or leaves writes this to its line. Ranks that still wait for its words then name it.
// The atomics are sequentially consistent: on x86 this costs one locked instruction a rank and piece.
#include "engines/shared_window.h"

#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/interrupt.h"
#include "base/rank_list.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using Words = std::span<std::uint64_t>;

// How long a rank yields before it sleeps. A wake-up costs about 10 µs; a computing neighbour loses 0.14 % to
// a yielding rank. With 1 ms of computing before each call, 2 ranks need 3.4 to 4.0 µs a sum at 1 ms, 16.6 at
// 0.2 ms.
constexpr auto kYield = std::chrono::milliseconds(1);
// Words that a rank sums at a time if there are 3 ranks or more: 8 KiB, which stay in the first cache.
constexpr std::size_t kPartWords = 1024;
// How long a rank waits for parts that others have claimed before it sums for itself. A part takes about 1
// µs, so their owners have died, were stopped, or lost their core.
constexpr auto kPartPatience = std::chrono::milliseconds(20);

// Yields the processor until `ready` or `until`.
template <class Ready>
void yield_until(Ready ready, Deadline until) {
  while (!ready() && Clock::now() < until) sched_yield();
}

void add(Words to, std::span<const std::uint64_t> from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

}  // namespace

SharedWindow::SharedWindow(std::shared_ptr<const SharedMemory> memory, const WindowShape& shape, int rank)
    : memory_(std::move(memory)), window_(memory_->data(), shape), rank_(rank) {}

std::span<std::int64_t> SharedWindow::buffer(std::size_t words) {
  if (buffer_.size() < words) buffer_.resize(words);
  return {buffer_.data(), words};
}

void SharedWindow::start(std::size_t words) {
  if (forks_.inherited()) throw GroupError("a fork can't use the shared memory of its parent");
  words_ = words;
  summed_ = 0;
  unsettled_ = true;
  bring_piece();
}

void SharedWindow::wait(Deadline deadline) {
  try {
    for (;;) {
      await_pieces(deadline);
      check_lengths();
      sum_piece();
      summed_ += piece_words();
      if (summed_ == words_) break;
      bring_piece();
    }
  } catch (...) {
    depart(Departure::gave_up);
    throw;
  }
  unsettled_ = false;
}

void SharedWindow::abort() noexcept {
  if (forks_.inherited()) return;
  aborted_ = true;
  depart(unsettled_ ? Departure::gave_up : Departure::left);
}

std::size_t SharedWindow::piece_words() const {
  return std::min(window_.shape().slot_words, words_ - summed_);
}

void SharedWindow::bring_piece() {
  ++operation_;
  std::copy_n(buffer_.begin() + static_cast<std::ptrdiff_t>(summed_), piece_words(),
              window_.slot(operation_, rank_).begin());
  line(rank_).words[operation_ & 1] = words_ - summed_;
  line(rank_).brought = operation_;
  if (everyone_brought()) window_.head().bell.ring();
}

bool SharedWindow::everyone_brought() const {
  const auto lines = window_.lines();
  return std::all_of(lines.begin(), lines.end(),
                     [this](const RankLine& line) { return line.brought.load() >= operation_; });
}

// True if there is nothing left to wait for: all have brought the piece, a rank has departed without it, or
// this rank was aborted.
bool SharedWindow::settled() const {
  bool everyone = true;
  for (const RankLine& line : window_.lines()) {
    const Departure departure = line.departure;  // first: a rank may bring its words and then leave
    if (line.brought.load() >= operation_) continue;
    if (departure != Departure::none) return true;
    everyone = false;
  }
  return everyone || aborted_;
}

void SharedWindow::await_pieces(Deadline deadline) {
  const auto is_settled = [this] { return settled(); };
  yield_until(is_settled, std::min(deadline, Clock::now() + kYield));
  while (!aborted_ && !everyone_brought()) {
    window_.head().bell.sleep(is_settled, base::next_poll(deadline));
    base::check_interrupt();
    if (const std::string gone = departures(); !gone.empty()) throw PeerError(gone);
    if (Clock::now() < deadline || everyone_brought()) continue;
    throw TimeoutError(fmt::format("waiting for {}", base::rank_list(missing())));
  }
  if (aborted_) throw PeerError("this rank gave the sum up");
}

// The library never brings unequal lengths. Another program on the same memory may.
void SharedWindow::check_lengths() const {
  const std::size_t expected = words_ - summed_;
  for (int rank = 0; rank < size(); ++rank) {
    const std::uint64_t words = line(rank).words[operation_ & 1];
    if (words != expected)
      throw PeerError(fmt::format("internal error: rank {} brought {} words where rank {} brought {}", rank,
                                  words, rank_, expected));
  }
}

std::vector<int> SharedWindow::missing() const {
  std::vector<int> ranks;
  for (int rank = 0; rank < size(); ++rank) {
    if (!has_brought(rank)) ranks.push_back(rank);
  }
  return ranks;
}

// Names the ranks that will never bring the piece; empty if there are none. A rank brings its words, then
// departs, then its process ends. This function looks in the reverse order, so that it names no rank that has
// brought its words.
std::string SharedWindow::departures() const {
  std::vector<int> lost, gave_up, left;
  for (int rank = 0; rank < size(); ++rank) {
    if (has_brought(rank)) continue;
    const bool lives = lives_(rank);
    const Departure departure = line(rank).departure;
    if (has_brought(rank)) continue;
    if (departure == Departure::none && !lives) lost.push_back(rank);
    if (departure == Departure::left) left.push_back(rank);
    if (departure != Departure::none && departure != Departure::left) gave_up.push_back(rank);
  }
  if (!lost.empty()) return fmt::format("connection closed by {}", base::rank_list(lost));
  if (!gave_up.empty()) return fmt::format("a sum was given up by {}", base::rank_list(gave_up));
  if (!left.empty()) return fmt::format("the group was left without this call by {}", base::rank_list(left));
  return "";
}

// The sum goes to this process's own memory, where no other process can change it after it was judged.
void SharedWindow::sum_piece() {
  // Signed and unsigned words may alias. Unsigned sums wrap.
  const Words own(reinterpret_cast<std::uint64_t*>(buffer_.data()) + summed_, piece_words());
  if (size() > 2) return sum_in_parts(own);
  for (int rank = 0; rank < size(); ++rank) {
    if (rank != rank_) add(own, window_.slot(operation_, rank));
  }
}

void SharedWindow::sum_in_parts(Words words) {
  const auto part_count = static_cast<std::uint32_t>((words.size() + kPartWords - 1) / kPartWords);
  PartLine& parts = window_.head().parts[operation_ & 1];
  const Words result = window_.result(operation_).first(words.size());
  for (std::uint32_t i; (i = parts.claimed.next(operation_, part_count)) < part_count;) {
    const std::size_t from = i * kPartWords;
    const Words part = result.subspan(from, std::min(kPartWords, result.size() - from));
    std::ranges::copy(window_.slot(operation_, 0).subspan(from, part.size()), part.begin());
    for (int rank = 1; rank < size(); ++rank) add(part, window_.slot(operation_, rank).subspan(from));
    if (parts.finished.next(operation_, part_count) + 1 == part_count) window_.head().bell.ring();
  }
  const auto finished = [&] { return parts.finished.count(operation_) >= part_count; };
  const Deadline until = Clock::now() + kPartPatience;
  yield_until(finished, std::min(until, Clock::now() + kYield));
  while (!finished() && Clock::now() < until) window_.head().bell.sleep(finished, until);
  if (finished()) {
    std::ranges::copy(result, words.begin());
    return;
  }
  for (int rank = 0; rank < size(); ++rank) {
    if (rank != rank_) add(words, window_.slot(operation_, rank));
  }
}

void SharedWindow::depart(Departure why) noexcept {
  Departure none = Departure::none;
  line(rank_).departure.compare_exchange_strong(none, why);
  window_.head().bell.ring();
}

}  // namespace syncbn::engines
