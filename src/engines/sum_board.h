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

/// Where the threads that are one group's ranks add up their words. An operation ends well when all ranks
/// have brought theirs, whatever becomes of them later; it fails when a rank leaves that has not.
class SumBoard {
 public:
  /// One all-reduce. Its sums are complete, and constant, when await() has returned.
  struct Operation {
    std::vector<std::uint64_t> sums;  // unsigned: they wrap
    std::vector<bool> brought;        // by rank
    std::string failure;              // why it can't end well, where it was begun wrongly
    bool complete = false;
  };

  explicit SumBoard(std::vector<int> ranks);
  const std::vector<int>& ranks() const {
    return ranks_;
  }  ///< World ranks; the position is the rank used here.

  /// The rank's communicator is made; taken(): everybody's is.
  void take(int rank);
  bool taken();

  /// Adds a rank's words to the operation that it joins.
  std::shared_ptr<const Operation> bring(int rank, std::span<const std::int64_t> words);
  /// @throws TimeoutError naming the ranks that are missing; PeerError naming the one that left; the
  /// operation is then this rank's last.
  void await(int rank, const Operation& operation, Deadline deadline);
  /// The rank brings no more words: "rank <rank> <reason>" is what the others read. The first reason stays. A
  /// rank that is no member is ignored.
  void leave(int rank, const std::string& reason) noexcept;

 private:
  struct Departure {
    int rank;
    std::string reason;
  };

  void leave_locked(int rank, const std::string& reason);
  const Departure* departure(int rank) const;
  std::vector<int> missing(const Operation& operation) const;

  const std::vector<int> ranks_;
  std::mutex mutex_;  // guards all below, operations included until they are complete
  std::condition_variable changed_;
  std::shared_ptr<Operation> current_;  // begun, and not all have brought their words
  std::vector<bool> taken_;
  std::vector<Departure> left_;  // in this order, so that the cause comes before its effects
};

}  // namespace syncbn::engines
