// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/interrupt.h"
#include "base/long_wait.h"
#include "rendezvous/store.h"
#include "syncbn/error.h"

namespace syncbn::rendezvous {

/// State that the MemoryStores of one process share: the keys, and the ranks that will set no more keys.
class MemoryBoard {
 public:
  /// A wait of a store that has `rank` among its members ends, now or later, with a PeerError
  /// "world rank <rank> <reason>".
  void depart(int rank, const std::string& reason) {
    const std::lock_guard lock(mutex_);
    departures_.emplace_back(rank, reason);
    changed_.notify_all();
  }

 private:
  friend class MemoryStore;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string, std::less<>> values_;
  std::map<std::string, std::int64_t, std::less<>> counters_;
  std::vector<std::pair<int, std::string>> departures_;  // in order, so that a cause precedes its effects
};

/// A store in memory. A wait ends with an error if one of `members` has departed.
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
    auto departed = board_->departures_.end();
    const auto settled = [&] {
      value = board_->values_.find(key);
      departed = std::find_if(
          board_->departures_.begin(), board_->departures_.end(), [&](const auto& rank_and_reason) {
            return std::find(members_.begin(), members_.end(), rank_and_reason.first) != members_.end();
          });
      return value != board_->values_.end() || departed != board_->departures_.end();
    };
    while (!board_->changed_.wait_until(lock, base::next_poll(deadline), settled)) {
      if (std::chrono::steady_clock::now() >= deadline)
        throw TimeoutError(fmt::format("key '{}' was not set", key));
      base::tell_long_wait();
    }
    if (value == board_->values_.end())
      throw PeerError(fmt::format("world rank {} {}", departed->first, departed->second));
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
