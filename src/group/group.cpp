// SPDX-License-Identifier: Apache-2.0
#include "group/group.h"

#include <fmt/core.h>

#include <stdexcept>
#include <utility>

#include "syncbn/error.h"

namespace syncbn {

Group::Group(std::string name, std::vector<int> ranks, int rank, base::TimeLimit limit, Connect connect,
             std::function<void()> on_peer_error)
    : name_(std::move(name)),
      ranks_(std::move(ranks)),
      rank_(rank),
      limit_(std::move(limit)),
      on_peer_error_(std::move(on_peer_error)),
      connect_(std::move(connect)) {}

Group::~Group() {
  if (inherited()) leak_connection();
}

void Group::sum(const group::CallDescription& call, std::span<std::int64_t> payload) {
  group::PendingSum sum{call, payload};
  start(sum);
  wait(sum, sum.deadline);
}

// Runs one half of a sum. If it throws a PeerError, calls on_peer_error_ with no lock held.
template <class Half>
void Group::noting_peer_errors(Half half) {
  try {
    half();
  } catch (const PeerError&) {
    if (on_peer_error_) on_peer_error_();
    throw;
  }
}

void Group::start(group::PendingSum& sum) {
  check_not_forked(sum.call);
  noting_peer_errors([&] {
    const std::lock_guard one_at_a_time(calls_);
    sum.deadline = deadline();
    complete_pending(sum.deadline);
    enter_call(sum.call);
    if (size() == 1) {
      sum.done = true;
      return leave_call(std::nullopt);
    }
    breaking_on_error(sum.call, sum.deadline,
                      [&] { agreed_.start(connected(sum.deadline), sum.call, sum.payload); });
    pending_ = &sum;
  });
}

void Group::wait(group::PendingSum& sum, Deadline deadline) {
  check_not_forked(sum.call);
  noting_peer_errors([&] {
    const std::lock_guard one_at_a_time(calls_);
    if (!sum.done) complete_pending(deadline);
    if (sum.error) std::rethrow_exception(sum.error);
  });
}

// Waits for the sum in flight, if there is one, and stores its outcome.
void Group::complete_pending(Deadline deadline) {
  if (pending_ == nullptr) return;
  group::PendingSum& sum = *std::exchange(pending_, nullptr);
  sum.done = true;
  try {
    breaking_on_error(sum.call, deadline, [&] { agreed_.wait(*communicator_, deadline); });
    leave_call(std::nullopt);
  } catch (...) {
    sum.error = std::current_exception();
  }
}

void Group::give_up(group::PendingSum& sum) noexcept {
  if (size() == 1 || inherited()) return;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::whole) {
      state_ = State::broken;
      reason_ = fmt::format("since {} was started and never finished", sum.call.subject);
    }
    if (communicator_ != nullptr) communicator_->abort();
  }
  const std::lock_guard one_at_a_time(calls_);  // a thread that waits for this sum returns after abort()
  if (pending_ != &sum) return;
  pending_ = nullptr;
  leave_call(std::nullopt);
}

void Group::fail(const group::CallDescription& call, const std::string& reason) noexcept {
  if (size() == 1 || inherited()) return;  // no peer waits, and nothing breaks
  try {
    const std::lock_guard one_at_a_time(calls_);
    const Deadline by = deadline();
    complete_pending(by);
    enter_call(call);
    breaking_on_error(call, by, [&] {
      agreed_.fail(connected(by), call, reason, by);
      // Breaks the group on this rank too.
      throw PeerError(fmt::format("this rank failed before its call: {}", reason));
    });
  } catch (...) {
    // The caller throws the original error. The group keeps the error of this function for later calls.
  }
}

void Group::close(const std::string& reason) noexcept {
  if (inherited()) return leak_connection();
  const std::lock_guard lock(mutex_);
  if (state_ == State::closed) return;
  state_ = State::closed;
  reason_ = reason;
  if (!in_call_) {
    communicator_.reset();
    connect_ = nullptr;
  } else if (communicator_ != nullptr) {
    communicator_->abort();  // the thread that makes the call cleans up
  }
}

// Runs an operation of the communicator. An error breaks the group, but the communicator lives until the
// group is closed. If it were destroyed at once, the peers would blame this rank for an error that this rank
// merely saw first, and a late rank could not complete a sum that all others have started.
template <class Operation>
void Group::breaking_on_error(const group::CallDescription& call, Deadline deadline, Operation operation) {
  try {
    operation();
  } catch (const std::exception& error) {
    leave_call(
        fmt::format("since call {} ({}): {}", agreed_.verified_calls() + 1, call.subject, error.what()));
    rethrow_in_context(call, deadline);
  } catch (...) {  // possible with a custom engine
    leave_call(fmt::format("since call {} ({})", agreed_.verified_calls() + 1, call.subject));
    throw;
  }
}

// Called before any lock is taken: a thread that does not exist in the fork may hold the lock.
void Group::check_not_forked(const group::CallDescription& call) const {
  if (!inherited()) return;
  throw GroupError(fmt::format(
      "group '{}', {}: this process is a fork of the one that joined the group, whose connections "
      "it can't use; a fork may call init(InitOptions) with a rank of its own after release()",
      name_, call.subject));
}

void Group::leak_connection() noexcept {
  base::leak(communicator_);
  base::leak(connect_);
}

void Group::enter_call(const group::CallDescription& call) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::whole) {
    throw GroupError(fmt::format("group '{}', {}: the group is {} {}", name_, call.subject,
                                 state_ == State::broken ? "broken" : "closed:", reason_));
  }
  in_call_ = true;
}

void Group::leave_call(const std::optional<std::string>& error) {
  const std::lock_guard lock(mutex_);
  in_call_ = false;
  if (state_ == State::closed) {
    communicator_.reset();
    connect_ = nullptr;
  } else if (error && state_ == State::whole) {
    state_ = State::broken;
    reason_ = *error;
  }
}

Communicator& Group::connected(Deadline deadline) {
  if (communicator_ == nullptr) {  // only this thread sets it, and no thread resets it during a call
    Connect connect;
    {
      const std::lock_guard lock(mutex_);
      connect = connect_;
    }
    std::unique_ptr<Communicator> made = connect(deadline);
    const std::lock_guard lock(mutex_);
    communicator_ = std::move(made);
    if (state_ == State::closed) throw GroupError("closed while it connected");
  }
  return *communicator_;
}

std::string Group::context(const group::CallDescription& call) const {
  return fmt::format("group '{}', call {}, {}, on rank {}: ", name_, agreed_.verified_calls() + 1,
                     agreed_.subject(call), rank_);
}

void Group::rethrow_in_context(const group::CallDescription& call, Deadline deadline) {
  const std::string prefix = context(call);
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::closed) throw GroupError(fmt::format("{}the group was closed: {}", prefix, reason_));
  }
  try {
    throw;
  } catch (const MismatchError& error) {
    throw MismatchError(prefix + error.what());
  } catch (const PeerError& error) {
    throw PeerError(prefix + error.what());
  } catch (const TimeoutError& error) {
    const bool expired = std::chrono::steady_clock::now() >= deadline;
    throw TimeoutError(fmt::format("{}no sum after {}: a peer died, is late or never called ({})", prefix,
                                   expired ? limit_.text() : "the engine's own time limit", error.what()));
  } catch (const GroupError& error) {
    throw GroupError(prefix + error.what());
  }  // other exceptions of the engine or the machine pass unchanged
}

}  // namespace syncbn
