#include "group/engines/gloo_communicator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gloo/allreduce.h>
#include <gloo/common/error.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <utility>

#include "group/socket.h"
#include "syncbn/error.h"

namespace syncbn::group {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto kForever =
    std::chrono::hours(24 * 30);                  // to Gloo, whose own timeouts would forestall the deadline
constexpr auto kLook = milliseconds(100);         // how often a waiting rank looks after its connections
constexpr auto kGrace = std::chrono::seconds(1);  // for a sum to come after a connection closed
constexpr std::uint64_t kLifeline = 0x5379'6e63'424e;  // a Gloo slot that no collective uses

void add_words(void* out, const void* a, const void* b, std::size_t words) {
  const auto* x = static_cast<const std::uint64_t*>(a);  // unsigned: sums wrap
  const auto* y = static_cast<const std::uint64_t*>(b);
  auto* sum = static_cast<std::uint64_t*>(out);
  for (std::size_t i = 0; i < words; ++i) sum[i] = x[i] + y[i];
}

}  // namespace

struct GlooCommunicator::Shared {
  std::mutex mutex;  // guards all below but the context and, between start() and wait(), the buffer
  std::condition_variable changed;
  std::shared_ptr<gloo::Context> context;
  std::vector<std::int64_t> buffer;
  std::size_t words = 0;
  bool summing = false;  // from start() until the helper has the sum or an error
  bool leaving = false;  // the helper shall end
  bool ended = false;    // it has
  std::string error;
};

std::string plain_text(const std::exception& error) {
  const std::string text = error.what();
  const auto end = text.find("] ");
  return text.starts_with("[./gloo") && end != std::string::npos ? text.substr(end + 2) : text;
}

GlooCommunicator::GlooCommunicator(std::shared_ptr<gloo::Context> context)
    : shared_(std::make_shared<Shared>()) {
  shared_->context = std::move(context);
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    lifelines_.push_back(
        {peer, shared_->context->createUnboundBuffer(&lifeline_word_, sizeof lifeline_word_)});
    lifelines_.back().buffer->recv(peer, kLifeline);
  }
}

GlooCommunicator::~GlooCommunicator() {
  abort();
  if (!helper_.joinable()) return;
  std::unique_lock lock(shared_->mutex);
  const bool ended = shared_->changed.wait_for(lock, kLook, [this] { return shared_->ended; });
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
  shared_->words = words;
  shared_->summing = true;
  shared_->changed.notify_all();
  if (helper_.joinable()) return;
  const BlockSignals deaf;  // Gloo writes without MSG_NOSIGNAL
  helper_ = std::thread([shared = shared_] { help(*shared); });
}

void GlooCommunicator::wait(Deadline deadline) {
  std::unique_lock lock(shared_->mutex);
  const auto settled = [this] { return !shared_->summing || shared_->leaving; };
  Deadline closed = Deadline::max();  // when a connection was first seen closed
  while (!shared_->changed.wait_until(lock, std::min(deadline, Clock::now() + kLook), settled)) {
    // Gloo wakes nobody when a connection closes within a message, so this rank looks for itself. A peer
    // that has its sum may leave before this rank has it, hence the grace.
    if (closed == Deadline::max() && !lost_peers().empty()) closed = Clock::now();
    if (Clock::now() >= deadline || Clock::now() - kGrace >= closed) break;
  }
  if (shared_->leaving) throw PeerError("this rank gave the sum up");
  if (!shared_->summing && shared_->error.empty()) return;
  const std::string error = shared_->error;
  lock.unlock();
  const std::vector<int> lost = lost_peers();
  if (!lost.empty())
    throw PeerError(fmt::format("connection closed by group rank {}", fmt::join(lost, ", ")));
  if (!error.empty()) throw PeerError(error);
  throw TimeoutError("no sum by the deadline");
}

void GlooCommunicator::abort() noexcept {
  std::unique_lock lock(shared_->mutex);
  const bool first = !std::exchange(shared_->leaving, true);
  const bool unsettled = shared_->summing || !shared_->error.empty();
  shared_->changed.notify_all();
  lock.unlock();
  if (first && unsettled) close_connections();  // else they close softly: a peer may still be reading
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

// Group ranks whose connection has failed. A receive that nobody answers lies ready on each connection:
// waiting for it throws if the connection failed, and returns at once if told so before.
std::vector<int> GlooCommunicator::lost_peers() const {
  std::vector<int> lost;
  for (const Lifeline& lifeline : lifelines_) {
    try {
      lifeline.buffer->abortWaitRecv();
      lifeline.buffer->waitRecv(nullptr, kForever);
    } catch (const gloo::Exception&) {
      lost.push_back(lifeline.peer);
    }
  }
  return lost;
}

// A wait that times out makes Gloo close all connections of the context and wake who waits for them: the
// helper here, and the peers there, which need not run into their deadlines.
void GlooCommunicator::close_connections() noexcept {
  try {
    shared_->context->createUnboundBuffer(&lifeline_word_, sizeof lifeline_word_)
        ->waitRecv(nullptr, milliseconds(1));
  } catch (const std::exception&) {  // that timeout
  }
}

}  // namespace syncbn::group
