#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rendezvous/store.h"
#include "syncbn/error.h"

namespace syncbn::rendezvous {

/// What the stores of one process's threads have in common: the keys, and which ranks will set no more of
/// them.
class MemoryBoard {
 public:
  /// Whoever waits together with `rank`, now or later, gets a PeerError: "world rank <rank> <reason>".
  void leave(int rank, const std::string& reason) {
    const std::lock_guard lock(mutex_);
    left_.emplace_back(rank, reason);
    changed_.notify_all();
  }

 private:
  friend class MemoryStore;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string, std::less<>> values_;
  std::map<std::string, std::int64_t, std::less<>> counters_;
  std::vector<std::pair<int, std::string>>
      left_;  // in this order, so that the cause comes before its effects
};

/// A store in memory, seen by one of `members`: a wait ends when one of them has left.
class MemoryStore final : public Store {
 public:
  explicit MemoryStore(std::shared_ptr<MemoryBoard> board, std::vector<int> members = {})
      : board_(std::move(board)), members_(std::move(members)) {}

  void set(std::string_view key, std::string_view value) override {
    const std::lock_guard lock(board_->mutex_);
    board_->values_.insert_or_assign(std::string(key), std::string(value));
    board_->changed_.notify_all();
  }

  std::string get(std::string_view key, Deadline deadline) override {
    std::unique_lock lock(board_->mutex_);
    auto value = board_->values_.end();
    auto left = board_->left_.end();
    const auto settled = [&] {
      value = board_->values_.find(key);
      left = std::find_if(board_->left_.begin(), board_->left_.end(), [&](const auto& rank_and_reason) {
        return std::find(members_.begin(), members_.end(), rank_and_reason.first) != members_.end();
      });
      return value != board_->values_.end() || left != board_->left_.end();
    };
    if (!board_->changed_.wait_until(lock, deadline, settled)) {
      throw TimeoutError(fmt::format("nobody set '{}' by the deadline", key));
    }
    if (value == board_->values_.end())
      throw PeerError(fmt::format("world rank {} {}", left->first, left->second));
    return value->second;
  }

  std::int64_t add(std::string_view key, std::int64_t delta) override {
    const std::lock_guard lock(board_->mutex_);
    return board_->counters_[std::string(key)] += delta;
  }

 private:
  const std::shared_ptr<MemoryBoard> board_;
  const std::vector<int> members_;
};

}  // namespace syncbn::rendezvous
