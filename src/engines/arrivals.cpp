// SPDX-License-Identifier: Apache-2.0
#include "engines/arrivals.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "base/interrupt.h"
#include "base/rank_list.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

Arrivals::Arrivals(const WindowLayout& window)
    : window_(window), names_(static_cast<std::size_t>(window.shape().ranks)) {
  std::iota(names_.begin(), names_.end(), 0);
}

std::span<RankLine> Arrivals::lines(const Awaited& awaited) const {
  return window_.lines().subspan(static_cast<std::size_t>(awaited.first),
                                 static_cast<std::size_t>(awaited.last - awaited.first));
}

bool Arrivals::complete(const Awaited& awaited) const {
  const auto brought = [&](const RankLine& line) { return line.brought.load() >= awaited.operation; };
  return std::ranges::all_of(lines(awaited), brought);
}

// True if there is nothing left to wait for: all have brought their words, a rank has departed without them,
// or this rank was aborted.
bool Arrivals::settled(const Awaited& awaited) const {
  bool everyone = true;
  for (const RankLine& line : lines(awaited)) {
    const Departure departure = line.departure;  // first: a rank may bring its words and then leave
    if (line.brought.load() >= awaited.operation) continue;
    if (departure != Departure::none) return true;
    everyone = false;
  }
  return everyone || aborted_;
}

void Arrivals::await(const Awaited& awaited, Deadline deadline, const std::function<void()>& look) const {
  const auto is_settled = [&] { return settled(awaited); };
  yield_until(is_settled, std::min(deadline, Clock::now() + kYield));
  while (!aborted_ && !complete(awaited)) {
    window_.head().bell.sleep(is_settled, base::next_poll(deadline));
    look();
    if (const std::string gone = departures(awaited); !gone.empty()) throw PeerError(gone);
    if (Clock::now() < deadline || complete(awaited)) continue;
    throw TimeoutError(fmt::format("waiting for {}", base::rank_list(missing(awaited))));
  }
  if (aborted_) throw PeerError("this rank gave the sum up");
}

std::vector<int> Arrivals::missing(const Awaited& awaited) const {
  std::vector<int> ranks;
  for (int rank = awaited.first; rank < awaited.last; ++rank) {
    if (!complete({awaited.operation, rank, rank + 1}))
      ranks.push_back(names_[static_cast<std::size_t>(rank)]);
  }
  return ranks;
}

// Names the ranks that will never bring their words; empty if there are none. A rank brings its words, then
// departs, then its process ends. This function looks in the reverse order, so that it names no rank that has
// brought its words.
std::string Arrivals::departures(const Awaited& awaited) const {
  std::vector<int> lost, gave_up, left;
  for (int rank = awaited.first; rank < awaited.last; ++rank) {
    const Awaited words{awaited.operation, rank, rank + 1};
    if (complete(words)) continue;
    const bool lives = lives_(rank);
    const Departure departure = lines(words).front().departure;
    if (complete(words)) continue;
    const int name = names_[static_cast<std::size_t>(rank)];
    if (departure == Departure::reported) {
      auto reason = window_.head().reason;  // a copy, since the memory may change
      reason.back() = 0;
      return reason.data();
    }
    if (departure == Departure::none && !lives) lost.push_back(name);
    if (departure == Departure::left) left.push_back(name);
    if (departure != Departure::none && departure != Departure::left) gave_up.push_back(name);
  }
  if (!lost.empty()) return fmt::format("connection closed by {}", base::rank_list(lost));
  if (!gave_up.empty()) return fmt::format("a sum was given up by {}", base::rank_list(gave_up));
  if (!left.empty()) return fmt::format("the group was left without this call by {}", base::rank_list(left));
  return "";
}

}  // namespace syncbn::engines
