// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "syncbn/export.h"

namespace syncbn {

/// Point in time by which a call has its answer or fails.
using Deadline = std::chrono::steady_clock::time_point;

/// Interface of an engine: one int64 SUM all-reduce over the ranks of one group, one operation in flight.
///
/// The library guarantees that all ranks bring the same number of words. After any error, and after abort(),
/// the communicator is broken for good. Then only destruction may follow, and it must not wait for peers.
class SYNCBN_API Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;  ///< This rank's position in the group, in [0, size()).
  virtual int size() const = 0;  ///< Number of ranks in the group.
  /// Returns the engine's buffer, of at least `words` words. The memory outlives an abandoned operation. A
  /// request for no more words than the one before keeps the contents. Not called between start() and wait().
  virtual std::span<std::int64_t> buffer(std::size_t words) = 0;
  /// Begins to sum the first `words` words of buffer() over all ranks, in place. Sums wrap in two's
  /// complement.
  virtual void start(std::size_t words) = 0;
  /// Waits until the sum stands in the buffer. An error says what happened; the caller adds the group's name.
  /// @throws TimeoutError, PeerError
  virtual void wait(Deadline deadline) = 0;
  /// Gives up the operation in flight. wait() then ends soon with a PeerError, here and, if the engine can
  /// tell them, on the peers. Another thread may call abort(), also during start() and wait(); it may call no
  /// other function.
  virtual void abort() noexcept = 0;
};

/// A communicator that can connect a part of its ranks. With it, a group on several hosts sums in the shared
/// memory of each host, and one rank of each host, its leader, sums between the hosts.
class SYNCBN_API MultiHostCommunicator : public Communicator {
 public:
  /// Connects `ranks`, in this order. Each of these ranks calls it. Returns null if the engine can't connect
  /// a part of its ranks. Messages of the result name ranks by their numbers in this communicator.
  virtual std::unique_ptr<MultiHostCommunicator> connect_leaders(const std::vector<int>& ranks,
                                                                 Deadline deadline) = 0;
  /// False: a sum makes progress only in wait(), on the thread that calls it.
  virtual bool sums_in_background() const = 0;

  /// Tells all ranks of the group that this rank waits for the sum with this number, counted from 1, which
  /// the leaders carry. Called if a wait takes long.
  virtual void report_waiting(std::int64_t sum) = 0;
  /// Ranks that have not reported a wait for `sum` or a later sum. Empty if the engine does not know.
  virtual std::vector<int> absent_from(std::int64_t sum) = 0;

  /// As abort(). The peers' waits then end with a PeerError of this text.
  virtual void give_up(const std::string& reason) noexcept = 0;
  /// Looks for peers that have died or given up. Called about every 100 ms before start().
  /// @throws PeerError
  virtual void check_peers() = 0;
};

}  // namespace syncbn
