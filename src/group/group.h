#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/forks.h"
#include "group/agreed_sum.h"
#include "syncbn/group.h"

namespace syncbn {

/// Up to which size of a group its sums are exact on the wire: digits of 47 bits in words of 63.
inline constexpr int kMaxRanks = 1 << 16;

/// A sum between its two halves; it and what it refers to stay in place until it is finished.
struct PendingSum {
  const group::Call& call;
  std::span<std::int64_t> payload;
  Deadline deadline = {};  ///< Of start(), and of sum() as a whole.
  bool done = false;
  std::exception_ptr error = nullptr;  ///< Why it failed, once it is done.
};

/// A named, ordered list of ranks as one member sees it: connects at the first sum, serialises sums, breaks
/// for good at the first error that a sum can't survive, and adds group, call and operation to what an engine
/// reports. In a fork of the process that made it, a group of several ranks is of no use: every sum is a
/// GroupError at once, and the connection stays the parent's.
class Group {
 public:
  using Connect = std::function<std::unique_ptr<Communicator>(Deadline)>;

  /// `connect` is called at most once, at the first sum of a group of two or more; `on_peer_error` before
  /// every PeerError that a sum throws.
  Group(std::string name, std::vector<int> ranks, int rank, std::chrono::milliseconds timeout,
        Connect connect, std::function<void()> on_peer_error = nullptr);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const std::string& name() const { return name_; }
  const std::vector<int>& ranks() const { return ranks_; }  ///< World ranks; a position is a group rank.
  int rank() const { return rank_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  std::chrono::milliseconds timeout() const { return timeout_; }

  /// Sums `payload` in place over the ranks; in a group of one nothing happens. The payload is unspecified
  /// after a throw.
  /// @throws MismatchError, PeerError, TimeoutError, GroupError (closed, or broken before)
  void sum(const group::Call& call, std::span<std::int64_t> payload);
  /// The two halves of sum(); other work may be done in between. Sums go in the order of their starts, and
  /// one at a time: whatever comes next on this group first waits for the one under way and keeps its outcome
  /// for its finish. A sum that was started must be finished or given up.
  /// @throws as sum(), start too
  void start(PendingSum& sum);
  void finish(PendingSum& sum) { finish(sum, deadline()); }
  /// In place of finish(): this rank will not have what its peers may have agreed on, so the group is broken,
  /// and they hear of it at once, where the engine can tell them. Waits for no peer.
  void give_up(PendingSum& sum) noexcept;
  /// For a rank whose call failed of itself: its peers get a PeerError instead of waiting, and the group is
  /// broken. Throws nothing; the caller rethrows its own error.
  void fail(const group::Call& call, const std::string& reason) noexcept;
  /// Every later sum is a GroupError with `reason`; one in flight on another thread is given up. Waits for
  /// nobody.
  void close(const std::string& reason) noexcept;

  int next_layer_number() {
    return ++layers_;
  }  ///< Construction number of an unnamed layer in this group, from 1.

 private:
  enum class State { whole, broken, closed };

  Deadline deadline() const { return std::chrono::steady_clock::now() + timeout_; }
  void finish(PendingSum& sum, Deadline deadline);
  void settle(Deadline deadline);
  template <class Half>
  void watched(Half half);
  bool inherited() const;
  void abandon() noexcept;
  void refuse_fork(const group::Call& call) const;
  template <class Operation>
  void attempt(const group::Call& call, Operation operation);
  std::string context(const group::Call& call) const;
  Communicator& connected(Deadline deadline);
  void begin(const group::Call& call);
  void end(const std::optional<std::string>& error);
  [[noreturn]] void rethrow_in_context(const group::Call& call);

  const std::string name_;
  const std::vector<int> ranks_;
  const int rank_;
  const std::chrono::milliseconds timeout_;
  const std::function<void()> on_peer_error_;
  const int forks_ = base::forks();
  std::atomic<int> layers_{0};

  std::mutex calls_;  // held by the thread that alone uses what follows, while it waits too
  group::AgreedSum agreed_;
  PendingSum* under_way_ = nullptr;  // started, not yet done

  std::mutex mutex_;  // guards all below; never held while waiting
  State state_ = State::whole;
  std::string reason_;  // why not whole
  bool in_flight_ = false;
  Connect connect_;  // keeps what the communicator stands on
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace syncbn
