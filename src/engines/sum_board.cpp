// SPDX-License-Identifier: Apache-2.0
#include "engines/sum_board.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/rank_list.h"
#include "syncbn/error.h"

namespace syncbn::engines {

SumBoard::SumBoard(std::vector<int> ranks) : ranks_(std::move(ranks)), attached_(ranks_.size()) {}

void SumBoard::attach(int rank) {
  const std::lock_guard lock(mutex_);
  attached_[static_cast<std::size_t>(rank)] = true;
}

bool SumBoard::all_attached() {
  const std::lock_guard lock(mutex_);
  return std::find(attached_.begin(), attached_.end(), false) == attached_.end();
}

std::shared_ptr<const SumBoard::Operation> SumBoard::contribute(int rank,
                                                                std::span<const std::int64_t> words) {
  const std::lock_guard lock(mutex_);
  if (current_ == nullptr) {
    current_ = std::make_shared<Operation>();
    current_->sums.resize(words.size());
    current_->contributed.resize(ranks_.size());
  }
  const std::shared_ptr<Operation> operation = current_;
  if (operation->sums.size() != words.size()) {
    operation->failure = fmt::format("internal error: rank {} passed {} words, but the other ranks passed {}",
                                     rank, words.size(), operation->sums.size());
    changed_.notify_all();
    return operation;
  }
  std::transform(words.begin(), words.end(), operation->sums.begin(), operation->sums.begin(),
                 [](std::int64_t word, std::uint64_t sum) { return sum + static_cast<std::uint64_t>(word); });
  operation->contributed[static_cast<std::size_t>(rank)] = true;
  if (missing(*operation).empty()) {
    operation->complete = true;
    current_ = nullptr;
    changed_.notify_all();
  }
  return operation;
}

void SumBoard::wait(int rank, const Operation& operation, Deadline deadline) {
  std::unique_lock lock(mutex_);
  const Departure* own = nullptr;
  const Departure* absent = nullptr;
  const auto settled = [&] {
    own = departure(rank);
    const auto first = std::find_if(departures_.begin(), departures_.end(), [&](const Departure& d) {
      return !operation.contributed[static_cast<std::size_t>(d.rank)];
    });
    absent = first == departures_.end() ? nullptr : &*first;
    return operation.complete || !operation.failure.empty() || absent != nullptr || own != nullptr;
  };
  if (!changed_.wait_until(lock, deadline, settled)) {
    depart_locked(rank, "gave up at its deadline");
    throw TimeoutError(fmt::format("waiting for {}", base::rank_list(missing(operation))));
  }
  if (operation.complete) return;
  std::string what = operation.failure;
  if (what.empty() && absent != nullptr) what = fmt::format("rank {} {}", absent->rank, absent->reason);
  if (what.empty()) what = "this rank " + own->reason;
  depart_locked(rank, "gave up: " + what);
  throw PeerError(what);
}

void SumBoard::depart(int rank, const std::string& reason) noexcept {
  const std::lock_guard lock(mutex_);
  if (rank < static_cast<int>(ranks_.size())) depart_locked(rank, reason);
}

void SumBoard::depart_locked(int rank, const std::string& reason) {
  if (departure(rank) == nullptr) departures_.push_back({rank, reason});
  changed_.notify_all();
}

const SumBoard::Departure* SumBoard::departure(int rank) const {
  const auto found = std::find_if(departures_.begin(), departures_.end(),
                                  [rank](const Departure& d) { return d.rank == rank; });
  return found == departures_.end() ? nullptr : &*found;
}

std::vector<int> SumBoard::missing(const Operation& operation) const {
  std::vector<int> ranks;
  for (std::size_t r = 0; r < operation.contributed.size(); ++r) {
    if (!operation.contributed[r]) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

}  // namespace syncbn::engines
