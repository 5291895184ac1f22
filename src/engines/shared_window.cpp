// SPDX-License-Identifier: Apache-2.0
// How the processes of one host sum in shared memory
//
// Each rank has two slots; piece n of all messages, counted from 1, uses the slots of n's parity.
//
// Bring: a rank copies its words into its slot, then stores brought = n in its line. A rank that sees that
// all have brought piece n rings the bell.
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
// A group on several hosts has a window on each host. Rank 0 of a window is the host's leader. It brings its
// words last: it waits for the words of the other ranks, adds them to its own words, sums with the leaders of
// the other hosts, writes the sum to the result, and only then stores brought = n. So the other ranks wait as
// they do on one host, and copy the result. If the leader's engine sums in the background, a thread of the
// leader does all this, because no rank may depend on what the leader's program does between start and wait.
// If the sum fails on one host, its leader reports the reason to the other leaders, and each leader to its
// host.
//
// A rank that gives up or leaves writes this to its line. Ranks that still wait for its words then name it.
// The atomics are sequentially consistent: on x86 this costs one locked instruction a rank and piece.
#include "engines/shared_window.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "base/interrupt.h"
#include "base/rank_list.h"
#include "engines/courier.h"
#include "group/engine_buffer.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using Words = std::span<std::uint64_t>;

// Words that a rank sums at a time if there are 3 ranks or more: 8 KiB, which stay in the first cache.
constexpr std::size_t kPartWords = 1024;
// How long a rank waits for parts that others have claimed before it sums for itself. A part takes about 1
// µs, so their owners have died, were stopped, or lost their core.
constexpr auto kPartPatience = std::chrono::milliseconds(20);
// A longer wait for a group on several hosts is reported to the other hosts.
constexpr auto kLongWait = std::chrono::milliseconds(200);

void add(Words to, std::span<const std::uint64_t> from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

}  // namespace

struct SharedWindow::Leader {
  std::unique_ptr<MultiHostCommunicator> between;
  std::mutex mutex;  // guards the next two members
  std::string why;   // the reason to report if the leader is aborted
  bool reported = false;
  std::string failure;             // the courier's; for the leader's program once the job is over
  std::optional<Courier> courier;  // last: its job uses the communicator
};

SharedWindow::SharedWindow(std::shared_ptr<const SharedMemory> memory, const WindowShape& shape, int rank)
    : memory_(std::move(memory)), window_(memory_->data(), shape), rank_(rank), arrivals_(window_) {}

SharedWindow::~SharedWindow() { abort(); }

void SharedWindow::watch(const Arrivals::Lives& lives) {
  arrivals_.watch([lives, own = rank_](int rank) { return rank == own || lives(rank); });
}

void SharedWindow::span_hosts(std::vector<int> names, MultiHostCommunicator& group,
                              std::unique_ptr<MultiHostCommunicator> between) {
  arrivals_.set_names(std::move(names));
  group_ = &group;
  pieces_on_one_host_ = operation_;
  if (between == nullptr) return;
  leader_ = std::make_unique<Leader>();
  leader_->between = std::move(between);
  if (!leader_->between->sums_in_background()) return;
  leader_->courier.emplace([this] {
    try {
      relay_message(Deadline::max(), [] {});
    } catch (const std::exception& error) {
      leader_->failure = error.what();
      report(leader_->failure);
    }
  });
}

std::span<std::int64_t> SharedWindow::buffer(std::size_t words) {
  if (buffer_.size() < words) buffer_.resize(words);
  return {buffer_.data(), words};
}

void SharedWindow::start(std::size_t words) {
  if (forks_.inherited()) throw GroupError("a fork can't use the shared memory of its parent");
  words_ = words;
  unsettled_ = true;
  if (leader_ == nullptr) return bring_piece(0);
  if (leader_->courier) leader_->courier->send();
}

void SharedWindow::wait(Deadline deadline) {
  const auto look = [this, report_at = report_time(deadline)]() mutable {
    base::check_interrupt();
    if (Clock::now() < report_at) return;
    group_->report_waiting(piece_between_hosts());
    report_at = Deadline::max();
  };
  try {
    if (leader_ != nullptr) {
      await_message(deadline, look);
    } else {
      for (std::size_t from = 0;; bring_piece(from)) {
        const Arrivals::Awaited everyone{operation_, 0, ranks()};
        arrivals_.await(everyone, deadline, look);
        check_lengths(everyone, words_ - from);
        sum_piece(piece(from));
        from += piece(from).size();
        if (from == words_) break;
      }
    }
  } catch (const TimeoutError& error) {
    const std::string waiting = group_ != nullptr ? absent_ranks() : error.what();
    give_up(fmt::format("a sum was given up by rank {}: {}", name(rank_), waiting));
    throw TimeoutError(waiting);
  } catch (const std::exception& error) {
    give_up(error.what());
    throw;
  } catch (...) {
    give_up(fmt::format("a sum was given up by rank {}", name(rank_)));
    throw;
  }
  unsettled_ = false;
}

void SharedWindow::abort() noexcept {
  if (forks_.inherited()) return;
  if (leader_ != nullptr && unsettled_) {
    std::unique_lock lock(leader_->mutex);
    const std::string why = leader_->why;
    lock.unlock();
    report(why.empty() ? fmt::format("a sum was given up by rank {}", name(rank_)) : why);
  } else {
    depart(unsettled_ ? Departure::gave_up : Departure::left);
  }
  arrivals_.abort();
  if (leader_ != nullptr) leader_->between->abort();
}

SharedWindow::Words SharedWindow::piece(std::size_t from) {
  // Signed and unsigned words may alias. Unsigned sums wrap.
  return {reinterpret_cast<std::uint64_t*>(buffer_.data()) + from,
          std::min(window_.shape().slot_words, words_ - from)};
}

void SharedWindow::bring_piece(std::size_t from) {
  ++operation_;
  std::ranges::copy(piece(from), window_.slot(operation_, rank_).begin());
  publish(operation_, words_ - from);
}

void SharedWindow::publish(std::uint64_t operation, std::size_t words) {
  line(rank_).words[operation & 1] = words;
  line(rank_).brought = operation;
  const int first =
      group_ != nullptr && rank_ != 0 ? 1 : 0;  // on several hosts the leader waits for the others
  if (arrivals_.complete({operation, first, ranks()})) window_.head().bell.ring();
}

// The library never brings unequal lengths. Another program on the same memory may.
void SharedWindow::check_lengths(const Arrivals::Awaited& brought, std::size_t expected) const {
  for (int rank = brought.first; rank < brought.last; ++rank) {
    const std::uint64_t words = line(rank).words[brought.operation & 1];
    if (words != expected)
      throw PeerError(fmt::format("internal error: rank {} brought {} words where rank {} brought {}",
                                  name(rank), words, name(rank_), expected));
  }
}

// The sum goes to this process's own memory, where no other process can change it after it was judged.
void SharedWindow::sum_piece(Words own) {
  if (group_ != nullptr) {
    std::ranges::copy(window_.result(operation_).first(own.size()), own.begin());
  } else if (ranks() > 2) {
    sum_in_parts(own);
  } else {
    add_slots(own, operation_);
  }
}

void SharedWindow::add_slots(Words own, std::uint64_t operation) const {
  for (int rank = 0; rank < ranks(); ++rank) {
    if (rank != rank_) add(own, window_.slot(operation, rank));
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
    for (int rank = 1; rank < ranks(); ++rank) add(part, window_.slot(operation_, rank).subspan(from));
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
  add_slots(words, operation_);
}

// Sums all pieces between the hosts: the leader's part of a message.
void SharedWindow::relay_message(Deadline deadline, const std::function<void()>& look) {
  MultiHostCommunicator& between = *leader_->between;
  const auto look_around = [&] {
    look();
    between.check_peers();
  };
  const std::size_t words =
      words_;  // the program may start its next message once the last piece is published
  std::uint64_t operation = operation_;
  for (std::size_t from = 0;;) {
    ++operation;
    const Words own = piece(from);
    const Arrivals::Awaited others{operation, 1, ranks()};
    arrivals_.await(others, deadline, look_around);
    check_lengths(others, words - from);
    add_slots(own, operation);
    const auto message = group::engine_buffer(between, own.size());
    std::ranges::copy(own, message.begin());
    between.start(own.size());
    between.wait(deadline);
    std::ranges::copy(message, own.begin());
    std::ranges::copy(own, window_.result(operation).begin());
    publish(operation, words - from);
    if ((from += own.size()) == words) return;
  }
}

void SharedWindow::await_message(Deadline deadline, const std::function<void()>& look) {
  const std::size_t slot = window_.shape().slot_words;
  const std::uint64_t last = operation_ + std::max<std::size_t>(1, (words_ + slot - 1) / slot);
  if (leader_->courier) {
    while (!leader_->courier->await(base::next_poll(deadline))) {
      look();
      if (Clock::now() >= deadline) throw TimeoutError("no sum");
    }
    if (!leader_->failure.empty()) throw PeerError(leader_->failure);
  } else {
    relay_message(deadline, look);
  }
  operation_ = last;
}

Deadline SharedWindow::report_time(Deadline deadline) const {
  if (group_ == nullptr) return Deadline::max();
  const auto now = Clock::now();
  return now + std::min<Clock::duration>(kLongWait, (deadline - now) / 2);
}

// The leader of each host has summed the pieces before this one.
std::int64_t SharedWindow::piece_between_hosts() const {
  return static_cast<std::int64_t>(line(0).brought.load() + 1 - pieces_on_one_host_);
}

std::string SharedWindow::absent_ranks() const {
  const std::vector<int> absent = group_->absent_from(piece_between_hosts());
  return absent.empty() ? "no sum" : fmt::format("waiting for {}", base::rank_list(absent));
}

// With a courier nothing is reported: it has the leader's words, so late ranks may still get their sum.
void SharedWindow::give_up(const std::string& why) noexcept {
  if (leader_ == nullptr) return depart(Departure::gave_up);
  if (!leader_->courier) return report(why);
  const std::lock_guard lock(leader_->mutex);
  leader_->why = why;
}

void SharedWindow::depart(Departure why) noexcept {
  Departure none = Departure::none;
  line(rank_).departure.compare_exchange_strong(none, why);
  window_.head().bell.ring();
}

// Reports why the sum fails to the leaders of the other hosts and to the ranks of this host. The first call
// counts.
void SharedWindow::report(const std::string& why) noexcept {
  const std::lock_guard lock(leader_->mutex);
  if (std::exchange(leader_->reported, true)) return;
  leader_->between->give_up(why);  // before this rank's program gets its error, and may end
  auto& reason = window_.head().reason;
  std::copy_n(why.begin(), std::min(why.size(), reason.size() - 1), reason.begin());
  depart(Departure::reported);
}

}  // namespace syncbn::engines
