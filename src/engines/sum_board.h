// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Adds up the words of the threads that are the ranks of one group. A sum completes when all ranks have
/// contributed, whatever happens to them later. It fails if a rank departs before it has contributed.
class SumBoard {
 public:
  /// One all-reduce. `sums` is complete and constant after wait() has returned.
  struct Operation {
    std::vector<std::uint64_t> sums;  // unsigned, so that they wrap
    std::vector<bool> contributed;    // by rank
    std::string failure;              // set if the ranks passed different numbers of words
    bool complete = false;
  };

  explicit SumBoard(std::vector<int> ranks);
  /// World ranks. The position is the rank in the functions below.
  const std::vector<int>& ranks() const { return ranks_; }

  /// attach() is called when the rank's communicator is created. all_attached() is true if every rank's is.
  void attach(int rank);
  bool all_attached();

  /// Adds a rank's words to the current operation and returns the operation.
  std::shared_ptr<const Operation> contribute(int rank, std::span<const std::int64_t> words);
  /// Waits until the operation is complete. After an exception the rank has departed.
  /// @throws TimeoutError with the missing ranks; PeerError with the rank that departed
  void wait(int rank, const Operation& operation, Deadline deadline);
  /// The rank contributes no more. The other ranks get "rank <rank> <reason>". Only the first reason counts.
  /// The call is ignored if `rank` is not a rank of the group.
  void depart(int rank, const std::string& reason) noexcept;

 private:
  struct Departure {
    int rank;
    std::string reason;
  };

  void depart_locked(int rank, const std::string& reason);
  const Departure* departure(int rank) const;
  std::vector<int> missing(const Operation& operation) const;

  const std::vector<int> ranks_;
  std::mutex mutex_;  // guards all members below, and operations until they are complete
  std::condition_variable changed_;
  std::shared_ptr<Operation> current_;  // the operation to which some ranks have not contributed; may be null
  std::vector<bool> attached_;
  std::vector<Departure> departures_;  // in the order of departing, so that a cause precedes its effects
};

}  // namespace syncbn::engines
