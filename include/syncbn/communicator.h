#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

namespace syncbn {

/// The point in time by which a call has its answer or fails.
using Deadline = std::chrono::steady_clock::time_point;

/// All that an engine is: one int64 SUM all-reduce over the ranks of one group, one operation in flight.
///
/// The library guarantees that all ranks bring the same number of words. After any error, and after abort(),
/// the communicator is broken for good: only destruction may follow, and must not wait for peers.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;  ///< In [0, size()).
  virtual int size() const = 0;
  /// At least `words` words, owned by the engine; the memory outlives an abandoned request. Contents are kept
  /// when it is asked for again with no more words than before; not to be called between start() and wait().
  virtual std::span<std::int64_t> buffer(std::size_t words) = 0;
  /// Begins to sum the first `words` words of buffer() over all ranks, in place. Two's complement, wrapping.
  virtual void start(std::size_t words) = 0;
  /// Returns when the sum stands in the buffer. @throws TimeoutError, PeerError: what happened, without the
  /// group's name, which the caller adds.
  virtual void wait(Deadline deadline) = 0;
  /// Gives up an operation in flight: wait() ends soon with a PeerError, here and, where the engine can, on
  /// the peers. The only function that another thread may call, during start() and wait() too.
  virtual void abort() noexcept = 0;
};

}  // namespace syncbn
