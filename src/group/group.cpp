#include "group/group.h"

#include <fmt/format.h>

#include <new>
#include <stdexcept>
#include <utility>

#include "syncbn/error.h"

namespace syncbn {
namespace {

std::string seconds(std::chrono::milliseconds duration) {
  return fmt::format("{} s (SYNCBN_TIMEOUT_S)", std::chrono::duration<double>(duration).count());
}

}  // namespace

Group::Group(std::string name, std::vector<int> ranks, int rank, std::chrono::milliseconds timeout,
             Connect connect, std::function<void()> on_peer_error)
    : name_(std::move(name)),
      ranks_(std::move(ranks)),
      rank_(rank),
      timeout_(timeout),
      on_peer_error_(std::move(on_peer_error)),
      connect_(std::move(connect)) {}

Group::~Group() {
  if (inherited()) abandon();
}

void Group::sum(const group::Call& call, std::span<std::int64_t> payload) {
  PendingSum sum{call, payload};
  start(sum);
  finish(sum, sum.deadline);
}

// Tells of a PeerError of one half of a sum, with no lock held.
template <class Half>
void Group::watched(Half half) {
  try {
    half();
  } catch (const PeerError&) {
    if (on_peer_error_) on_peer_error_();
    throw;
  }
}

void Group::start(PendingSum& sum) {
  refuse_fork(sum.call);
  watched([&] {
    const std::lock_guard one_at_a_time(calls_);
    sum.deadline = deadline();
    settle(sum.deadline);
    begin(sum.call);
    if (size() == 1) {
      sum.done = true;
      return end(std::nullopt);
    }
    attempt(sum.call, [&] { agreed_.start(connected(sum.deadline), sum.call, sum.payload); });
    under_way_ = &sum;
  });
}

void Group::finish(PendingSum& sum, Deadline deadline) {
  refuse_fork(sum.call);
  watched([&] {
    const std::lock_guard one_at_a_time(calls_);
    if (!sum.done) settle(deadline);
    if (sum.error) std::rethrow_exception(sum.error);
  });
}

// Waits for the sum under way, if there is one.
void Group::settle(Deadline deadline) {
  if (under_way_ == nullptr) return;
  PendingSum& sum = *std::exchange(under_way_, nullptr);
  sum.done = true;
  try {
    attempt(sum.call, [&] { agreed_.finish(*communicator_, deadline); });
    end(std::nullopt);
  } catch (...) {
    sum.error = std::current_exception();
  }
}

void Group::give_up(PendingSum& sum) noexcept {
  if (size() == 1 || inherited()) return;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::whole) {
      state_ = State::broken;
      reason_ = fmt::format("since {} was started and never finished", sum.call.subject);
    }
    if (communicator_ != nullptr) communicator_->abort();
  }
  const std::lock_guard one_at_a_time(calls_);  // whoever waits for this sum there has heard of it
  if (under_way_ != &sum) return;
  under_way_ = nullptr;
  end(std::nullopt);
}

void Group::fail(const group::Call& call, const std::string& reason) noexcept {
  if (size() == 1 || inherited()) return;  // nobody waits, and nothing breaks
  try {
    const std::lock_guard one_at_a_time(calls_);
    const Deadline by = deadline();
    settle(by);
    begin(call);
    attempt(call, [&] {
      agreed_.fail(connected(by), call, reason, by);
      throw PeerError(
          fmt::format("this rank failed before its call: {}", reason));  // breaks the group here, too
    });
  } catch (...) {
    // The caller throws its own error, which is the cause; the group keeps what happened here for later
    // calls.
  }
}

void Group::close(const std::string& reason) noexcept {
  if (inherited()) return abandon();
  const std::lock_guard lock(mutex_);
  if (state_ == State::closed) return;
  state_ = State::closed;
  reason_ = reason;
  if (!in_flight_) {
    communicator_.reset();
    connect_ = nullptr;
  } else if (communicator_ != nullptr) {
    communicator_->abort();  // the thread whose call it is cleans up
  }
}

// A communicator lives until the group is closed, even when it is broken: if it went at once, its peers would
// blame this rank for the error that it merely saw first, and a rank that is late could not finish a sum that
// all others began.
template <class Operation>
void Group::attempt(const group::Call& call, Operation operation) {
  try {
    operation();
  } catch (const std::exception& error) {
    end(fmt::format("since call {} ({}): {}", agreed_.verified_calls() + 1, call.subject, error.what()));
    rethrow_in_context(call);
  } catch (...) {  // of an engine of the caller's own
    end(fmt::format("since call {} ({})", agreed_.verified_calls() + 1, call.subject));
    throw;
  }
}

// Before any lock: a thread that is not here may hold it.
void Group::refuse_fork(const group::Call& call) const {
  if (!inherited()) return;
  throw GroupError(fmt::format(
      "group '{}', {}: this process is a fork of the one that joined the group, whose connections "
      "it can't use; a fork may call init(InitOptions) with a rank of its own after release()",
      name_, call.subject));
}

bool Group::inherited() const { return size() > 1 && forks_ != base::forks(); }

// To destroy what stands on threads that are not here would take for ever, or speak to the parent's peers.
void Group::abandon() noexcept {
  static_cast<void>(communicator_.release());
  if (connect_ != nullptr) static_cast<void>(new (std::nothrow) Connect(std::exchange(connect_, nullptr)));
}

void Group::begin(const group::Call& call) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::whole) {
    throw GroupError(fmt::format("group '{}', {}: the group is {} {}", name_, call.subject,
                                 state_ == State::broken ? "broken" : "closed:", reason_));
  }
  in_flight_ = true;
}

void Group::end(const std::optional<std::string>& error) {
  const std::lock_guard lock(mutex_);
  in_flight_ = false;
  if (state_ == State::closed) {
    communicator_.reset();
    connect_ = nullptr;
  } else if (error && state_ == State::whole) {
    state_ = State::broken;
    reason_ = *error;
  }
}

Communicator& Group::connected(Deadline deadline) {
  if (communicator_ == nullptr) {  // only this thread sets it, and nobody takes it away during a call
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

std::string Group::context(const group::Call& call) const {
  return fmt::format("group '{}', call {}, {}, on rank {}: ", name_, agreed_.verified_calls() + 1,
                     call.subject, rank_);
}

void Group::rethrow_in_context(const group::Call& call) {
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
    throw TimeoutError(fmt::format("{}no sum after {}: a peer died, is late or never called ({})", prefix,
                                   seconds(timeout_), error.what()));
  } catch (const GroupError& error) {
    throw GroupError(prefix + error.what());
  }  // anything else is an engine's or the machine's own: as it is
}

}  // namespace syncbn
