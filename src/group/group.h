// SPDX-License-Identifier: Apache-2.0
#pragma once

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
#include "base/timeout.h"
#include "group/agreed_sum.h"
#include "syncbn/group.h"

namespace syncbn {

namespace group {

/// A sum between start() and wait(). The object and everything it refers to must not move or end meanwhile.
struct PendingSum {
  const CallDescription& call;
  std::span<std::int64_t> payload;
  Deadline deadline = {};  ///< Deadline of start(), and of sum() as a whole.
  bool done = false;
  std::exception_ptr error = nullptr;  ///< Set if the sum is done and failed.
};

}  // namespace group

/// A named, ordered list of ranks as one member sees it. The group connects at its first sum, serializes
/// sums, and adds group, call and operation to the errors of its engine. An error that a sum cannot survive
/// breaks the group for good. A group of several ranks cannot be used in a fork of the process that made it:
/// every sum is a GroupError at once, and the connection remains the parent's.
class Group {
 public:
  using Connect = std::function<std::unique_ptr<Communicator>(Deadline)>;

  /// `connect` is called at most once, at the first sum of a group of two or more ranks. `on_peer_error` is
  /// called before a sum throws a PeerError.
  Group(std::string name, std::vector<int> ranks, int rank, base::TimeLimit limit, Connect connect,
        std::function<void()> on_peer_error = nullptr);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const std::string& name() const { return name_; }
  const std::vector<int>& ranks() const { return ranks_; }  ///< World ranks; the position is the group rank.
  int rank() const { return rank_; }
  int size() const { return static_cast<int>(ranks_.size()); }

  /// Sums `payload` in place over the ranks. In a group of one the payload stays as it is. After an exception
  /// the payload is unspecified.
  /// @throws MismatchError, PeerError, TimeoutError; GroupError if the group is closed or already broken
  void sum(const group::CallDescription& call, std::span<std::int64_t> payload);
  /// The two halves of sum(). The caller may do other work between them. Only one sum of a group is in
  /// flight, and sums complete in the order of their starts: the next operation on the group first waits for
  /// the sum in flight and stores its outcome for wait(). A started sum must be waited for or given up.
  /// @throws as sum(), from both functions
  void start(group::PendingSum& sum);
  void wait(group::PendingSum& sum) { wait(sum, deadline()); }
  /// Replaces wait(). This rank will not have the result on which its peers may have agreed, so the group is
  /// broken. The peers get an error at once if the engine can send one. Does not wait for peers.
  void give_up(group::PendingSum& sum) noexcept;
  /// Replaces sum() if this rank's call has failed before it. The peers get a PeerError instead of waiting,
  /// and the group is broken. Throws nothing; the caller rethrows the original error.
  void fail(const group::CallDescription& call, const std::string& reason) noexcept;
  /// Closes the group: every later sum is a GroupError with `reason`, and a sum in flight on another thread
  /// is given up. Does not wait for peers.
  void close(const std::string& reason) noexcept;

 private:
  enum class State { whole, broken, closed };

  Deadline deadline() const { return std::chrono::steady_clock::now() + limit_.time; }
  void wait(group::PendingSum& sum, Deadline deadline);
  void complete_pending(Deadline deadline);
  template <class Half>
  void noting_peer_errors(Half half);
  bool inherited() const { return size() > 1 && fork_guard_.inherited(); }
  void leak_connection() noexcept;
  void check_not_forked(const group::CallDescription& call) const;
  template <class Operation>
  void breaking_on_error(const group::CallDescription& call, Deadline deadline, Operation operation);
  std::string context(const group::CallDescription& call) const;
  Communicator& connected(Deadline deadline);
  void enter_call(const group::CallDescription& call);
  void leave_call(const std::optional<std::string>& error);
  [[noreturn]] void rethrow_in_context(const group::CallDescription& call, Deadline deadline);

  const std::string name_;
  const std::vector<int> ranks_;
  const int rank_;
  const base::TimeLimit limit_;
  const std::function<void()> on_peer_error_;
  const base::ForkGuard fork_guard_;

  std::mutex calls_;  // guards the next two members; held for a whole call, waiting included
  group::AgreedSum agreed_;
  group::PendingSum* pending_ = nullptr;  // the sum in flight

  std::mutex mutex_;  // guards all members below; never held while waiting
  State state_ = State::whole;
  std::string reason_;  // why the group is broken or closed
  bool in_call_ = false;
  Connect connect_;  // owns the engine, which the communicator needs
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace syncbn
