#include "group/sum_board.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "group/verdict.h"
#include "syncbn/error.h"

namespace syncbn::group {

SumBoard::SumBoard(std::vector<int> ranks)
    : ranks_(std::move(ranks)), taken_(ranks_.size()), left_(ranks_.size()) {}

void SumBoard::take(int rank) {
  const std::lock_guard lock(mutex_);
  taken_[static_cast<std::size_t>(rank)] = true;
}

bool SumBoard::taken() {
  const std::lock_guard lock(mutex_);
  return std::find(taken_.begin(), taken_.end(), false) == taken_.end();
}

std::shared_ptr<const SumBoard::Operation> SumBoard::bring(int rank, std::span<const std::int64_t> words) {
  const std::lock_guard lock(mutex_);
  if (current_ == nullptr) {
    current_ = std::make_shared<Operation>();
    current_->sums.resize(words.size());
    current_->brought.resize(ranks_.size());
  }
  const std::shared_ptr<Operation> operation = current_;
  if (operation->sums.size() != words.size()) {
    operation->failure = fmt::format("internal error: rank {} brought {} words where others brought {}", rank,
                                     words.size(), operation->sums.size());
    changed_.notify_all();
    return operation;
  }
  std::transform(words.begin(), words.end(), operation->sums.begin(), operation->sums.begin(),
                 [](std::int64_t word, std::uint64_t sum) { return sum + static_cast<std::uint64_t>(word); });
  operation->brought[static_cast<std::size_t>(rank)] = true;
  if (missing(*operation).empty()) {
    operation->complete = true;
    current_ = nullptr;
    changed_.notify_all();
  }
  return operation;
}

void SumBoard::await(int rank, const Operation& operation, Deadline deadline) {
  std::unique_lock lock(mutex_);
  const std::optional<std::string>& own = left_[static_cast<std::size_t>(rank)];
  std::optional<std::size_t> absent;
  const auto settled = [&] {
    for (std::size_t r = 0; r < left_.size() && !absent; ++r) {
      if (left_[r] && !operation.brought[r]) absent = r;
    }
    return operation.complete || !operation.failure.empty() || absent || own;
  };
  if (!changed_.wait_until(lock, deadline, settled)) {
    leave_locked(rank, "gave up at its deadline");
    throw TimeoutError(fmt::format("waiting for {}", rank_list(missing(operation))));
  }
  if (operation.complete) return;
  std::string what = operation.failure;
  if (what.empty()) what = absent ? fmt::format("rank {} {}", *absent, *left_[*absent]) : "this rank " + *own;
  leave_locked(rank, "gave up: " + what);
  throw PeerError(what);
}

void SumBoard::leave(int rank, const std::string& reason) noexcept {
  const std::lock_guard lock(mutex_);
  if (rank < static_cast<int>(ranks_.size())) leave_locked(rank, reason);
}

void SumBoard::leave_locked(int rank, const std::string& reason) {
  std::optional<std::string>& left = left_[static_cast<std::size_t>(rank)];
  if (!left) left = reason;
  changed_.notify_all();
}

std::vector<int> SumBoard::missing(const Operation& operation) const {
  std::vector<int> ranks;
  for (std::size_t r = 0; r < operation.brought.size(); ++r) {
    if (!operation.brought[r]) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

}  // namespace syncbn::group
