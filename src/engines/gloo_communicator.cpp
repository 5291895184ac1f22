// SPDX-License-Identifier: Apache-2.0
#include "engines/gloo_communicator.h"

#include <fmt/core.h>
#include <gloo/allreduce.h>
#include <gloo/common/error.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/block_signals.h"
#include "base/interrupt.h"
#include "base/rank_list.h"
#include "rendezvous/socket.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto kForever = std::chrono::hours(24 * 30);  // so that Gloo ends no wait before the deadline
constexpr auto kGrace = milliseconds(500);              // for a sum to complete after a connection has closed
constexpr auto kLongWait = milliseconds(200);           // a longer wait is reported to the store
// The farewell of a rank that leaves during a sum. Other farewells are the number of sums that the rank has
// had.
constexpr std::int64_t kGaveUp = -1;
constexpr std::uint64_t kFarewellSlot = 0x5379'6e63'424e;  // a Gloo slot that no collective uses

void add_words(void* out, const void* a, const void* b, std::size_t words) {
  const auto* x = static_cast<const std::uint64_t*>(a);  // unsigned: sums wrap
  const auto* y = static_cast<const std::uint64_t*>(b);
  auto* sum = static_cast<std::uint64_t*>(out);
  for (std::size_t i = 0; i < words; ++i) sum[i] = x[i] + y[i];
}

}  // namespace

struct GlooCommunicator::Shared {
  // Guards all members below, except the context and, between start() and wait(), the buffer.
  std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<gloo::Context> context;
  std::vector<std::int64_t> buffer;
  std::size_t words = 0;
  bool summing = false;  // from start() until the helper has the sum or an error
  bool leaving = false;  // the helper must end
  bool ended = false;    // the helper has ended
  std::string error;
};

std::string plain_text(const std::exception& error) {
  const std::string text = error.what();
  const auto end = text.find("] ");
  return text.starts_with("[./gloo") && end != std::string::npos ? text.substr(end + 2) : text;
}

GlooCommunicator::GlooCommunicator(std::shared_ptr<gloo::Context> context, GlooAttendance attendance,
                                   std::vector<int> names)
    : shared_(std::make_shared<Shared>()), attendance_(std::move(attendance)), names_(std::move(names)) {
  shared_->context = std::move(context);
  farewells_.resize(static_cast<std::size_t>(size()));
  for (int peer = 0; peer < size(); ++peer) {
    Farewell& farewell = farewells_[static_cast<std::size_t>(peer)];
    farewell_receives_.push_back(shared_->context->createUnboundBuffer(&farewell, sizeof farewell));
    if (peer != rank()) farewell_receives_.back()->recv(peer, kFarewellSlot);
  }
}

GlooCommunicator::~GlooCommunicator() {
  abort();
  if (!helper_.joinable()) return;
  std::unique_lock lock(shared_->mutex);
  const bool ended = shared_->changed.wait_for(lock, base::kPollInterval, [this] { return shared_->ended; });
  lock.unlock();
  ended ? helper_.join() : helper_.detach();
}

int GlooCommunicator::rank() const { return shared_->context->rank; }

int GlooCommunicator::size() const { return shared_->context->size; }

std::span<std::int64_t> GlooCommunicator::buffer(std::size_t words) {
  if (shared_->buffer.size() < words) shared_->buffer.resize(words);
  return {shared_->buffer.data(), words};
}

void GlooCommunicator::start(std::size_t words) {
  const std::lock_guard lock(shared_->mutex);
  ++sums_;
  shared_->words = words;
  shared_->summing = true;
  shared_->changed.notify_all();
  if (helper_.joinable()) return;
  const base::BlockSignals blocked;  // because Gloo writes without MSG_NOSIGNAL
  helper_ = std::thread([shared = shared_] { help(*shared); });
}

void GlooCommunicator::wait(Deadline deadline) {
  std::unique_lock lock(shared_->mutex);
  const auto settled = [this] { return !shared_->summing || shared_->leaving; };
  const Deadline report_at =
      Clock::now() + std::min<Clock::duration>(kLongWait, (deadline - Clock::now()) / 2);
  bool reported = false;
  Deadline closed = Deadline::max();  // time at which a departed peer was first seen
  while (!shared_->changed.wait_until(lock, base::next_poll(deadline), settled)) {
    lock.unlock();
    base::check_interrupt();
    lock.lock();
    // Gloo wakes no thread when a connection closes within a message, so this rank polls. A peer that dies
    // after its sum was complete may have sent all the data that this rank needs, hence the grace time.
    if (closed == Deadline::max() && !departures(sums_).empty()) closed = Clock::now();
    if (Clock::now() >= deadline || Clock::now() - kGrace >= closed) break;
    if (reported || Clock::now() < report_at) continue;
    lock.unlock();
    attendance_.report_waiting(sums_);
    reported = true;
    lock.lock();
  }
  if (shared_->leaving) throw PeerError("this rank gave the sum up");
  if (!shared_->summing && shared_->error.empty()) return;
  const std::string error = shared_->error;
  lock.unlock();
  const std::string gone = departures(sums_);
  if (!gone.empty()) throw PeerError(gone);
  if (!error.empty()) throw PeerError(error);
  const std::vector<int> absent = attendance_.absent_from(sums_);
  throw TimeoutError(absent.empty() ? "no sum" : fmt::format("waiting for {}", base::rank_list(absent)));
}

void GlooCommunicator::check_peers() {
  if (const std::string gone = departures(sums_ + 1); !gone.empty()) throw PeerError(gone);
}

void GlooCommunicator::give_up(const std::string& reason) noexcept {
  std::unique_lock lock(shared_->mutex);
  const bool first = !std::exchange(shared_->leaving, true);
  const bool unsettled = shared_->summing || !shared_->error.empty() || !reason.empty();
  shared_->changed.notify_all();
  lock.unlock();
  if (!first) return;
  send_farewell(unsettled ? kGaveUp : sums_, reason);
  if (unsettled) close_connections();  // otherwise leave them open for peers that are still reading
}

void GlooCommunicator::help(Shared& shared) {
  std::unique_lock lock(shared.mutex);
  for (;;) {
    shared.changed.wait(lock, [&] { return shared.summing || shared.leaving; });
    if (shared.leaving) break;
    lock.unlock();
    std::string error;
    try {
      gloo::AllreduceOptions options(shared.context);
      options.setOutput(shared.buffer.data(), shared.words);
      options.setReduceFunction(add_words);
      options.setTimeout(kForever);
      gloo::allreduce(options);
    } catch (const std::exception& failure) {
      error = plain_text(failure);
    }
    lock.lock();
    shared.error = error;
    shared.summing = false;
    shared.changed.notify_all();
  }
  shared.ended = true;
  shared.changed.notify_all();
}

// Message about the peers that have departed without the sum of this number; "" if there are none. Each
// connection has a pending receive that only a farewell completes. Waiting for this receive throws if the
// connection failed without a farewell, and returns at once after abortWaitRecv().
std::string GlooCommunicator::departures(std::int64_t sum) {
  std::vector<int> lost, gave_up, left;
  std::string reason;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    const auto i = static_cast<std::size_t>(peer);
    try {
      farewell_receives_[i]->abortWaitRecv();
      farewell_receives_[i]->waitRecv(nullptr, kForever);
    } catch (const gloo::Exception&) {
      lost.push_back(names_[i]);
      continue;
    }
    const std::int64_t farewell = std::atomic_ref(farewells_[i].word).load();
    if (farewell == kGaveUp) {
      gave_up.push_back(names_[i]);
      farewells_[i].reason.back() = 0;
      if (reason.empty()) reason = farewells_[i].reason.data();
    }
    if (farewell > 0 && farewell < sum) left.push_back(names_[i]);
  }
  if (!reason.empty()) return reason;
  if (!lost.empty()) return fmt::format("connection closed by {}", base::rank_list(lost));
  if (!gave_up.empty()) return fmt::format("a sum was given up by {}", base::rank_list(gave_up));
  if (!left.empty()) return fmt::format("the group was left without this call by {}", base::rank_list(left));
  return "";
}

// Does not wait for the farewell to arrive. If a connection takes no bytes, its peer sees it closed instead.
void GlooCommunicator::send_farewell(std::int64_t word, const std::string& reason) noexcept {
  farewell_.word = word;
  std::copy_n(reason.begin(), std::min(reason.size(), farewell_.reason.size() - 1), farewell_.reason.begin());
  const auto send = [this] {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank()) continue;
      try {
        farewell_sends_.push_back(shared_->context->createUnboundBuffer(&farewell_, sizeof farewell_));
        farewell_sends_.back()->send(peer, kFarewellSlot);
      } catch (const std::exception&) {  // that connection has failed
      }
    }
  };
  try {
    const base::BlockSignals blocked;  // as for the helper; a pending SIGPIPE ends with this thread
    std::thread(send).join();
  } catch (const std::exception&) {  // without a thread there is no farewell
  }
}

// Closes all connections of the context. Gloo does this when a wait times out, and wakes all threads that
// wait for the connections: the helper on this rank, and the peers, which then do not wait until their
// deadlines.
void GlooCommunicator::close_connections() noexcept {
  try {
    shared_->context->createUnboundBuffer(&farewell_, sizeof farewell_)->waitRecv(nullptr, milliseconds(1));
  } catch (const std::exception&) {  // the timeout
  }
}

}  // namespace syncbn::engines
