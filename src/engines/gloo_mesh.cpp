// SPDX-License-Identifier: Apache-2.0
#include "engines/gloo_mesh.h"

#include <fmt/core.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/long_wait.h"
#include "engines/gloo_attendance.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto kFirstAttempt = std::chrono::seconds(1);  // doubled for each further attempt

// Gloo's view of a store, for one attempt.
class AttemptStore final : public gloo::rendezvous::Store {
 public:
  AttemptStore(rendezvous::Store& store, std::string prefix, Deadline deadline)
      : store_(store), prefix_(std::move(prefix)), deadline_(deadline) {}
  void set(const std::string& key, const std::vector<char>& data) override {
    store_.set(prefix_ + key, {data.data(), data.size()});
  }
  std::vector<char> get(const std::string& key) override {
    const std::string value = store_.get(prefix_ + key, deadline_);
    return {value.begin(), value.end()};
  }
  void wait(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) get(key);
  }
  void wait(const std::vector<std::string>& keys, const milliseconds&) override { wait(keys); }

 private:
  rendezvous::Store& store_;
  const std::string prefix_;
  const Deadline deadline_;
};

// Word `i` that `member` passes to the sum that checks a mesh. 47 bits, so that no sum overflows.
std::int64_t secret_word(std::uint64_t secret, std::uint64_t member, std::uint64_t i) {
  const std::uint64_t word = base::mix_bits(secret + (member << 32 | (i + 1)) * 0x9e3779b97f4a7c15u);
  return static_cast<std::int64_t>(word >> 17);
}

// Sums secret words over the new mesh. A foreign process may have taken a peer's place unnoticed, but it
// cannot know the words of that peer. The sum uses every connection that later sums use, because Gloo's ring
// divides a message into two segments per rank.
void check_peers(Communicator& communicator, std::uint64_t secret, Deadline deadline) {
  const int size = communicator.size();
  const auto words = communicator.buffer(2 * static_cast<std::size_t>(size));
  std::vector<std::int64_t> expected(words.size());
  for (int member = 0; member < size; ++member) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      const std::int64_t word = secret_word(secret, static_cast<std::uint64_t>(member), i);
      expected[i] += word;
      if (member == communicator.rank()) words[i] = word;
    }
  }
  communicator.start(words.size());
  communicator.wait(deadline);
  if (!std::equal(words.begin(), words.end(), expected.begin()))
    throw PeerError("a foreign process took the place of a peer");
}

std::unique_ptr<GlooCommunicator> attempt(const GlooMembership& membership, rendezvous::Store& store,
                                          const group::GroupSpec& group, const std::vector<int>& names,
                                          const std::string& prefix,
                                          const std::shared_ptr<gloo::transport::Device>& device,
                                          Deadline deadline) {
  const auto found = std::find(group.ranks.begin(), group.ranks.end(), membership.rank());
  const int rank = static_cast<int>(found - group.ranks.begin());
  const int size = static_cast<int>(group.ranks.size());
  auto context = std::make_shared<gloo::rendezvous::Context>(rank, size);
  // Gloo waits for a connection five times as long as its timeout.
  const auto timeout = std::chrono::ceil<milliseconds>((deadline - Clock::now()) / 5);
  context->setTimeout(std::max(milliseconds(1), timeout));
  AttemptStore attempt_store(store, prefix, deadline);
  auto device_of_context = device;
  context->connectFullMesh(attempt_store, device_of_context);
  auto communicator = std::make_unique<GlooCommunicator>(
      std::move(context),
      GlooAttendance(membership.store(), fmt::format("world/{}/{}waits/", membership.world(), prefix), rank,
                     size),
      names);
  check_peers(*communicator, membership.secret(), deadline);
  return communicator;
}

// Exchanges the outcomes of an attempt, so that all members go on or try again together. Returns the first
// failure in the order of the ranks, "" if there is none.
std::string first_failure(int own_rank, rendezvous::Store& store, const group::GroupSpec& group,
                          const std::string& prefix, const std::string& own, Deadline deadline) {
  store.set(fmt::format("{}outcome/{}", prefix, own_rank), own);
  std::string failure;
  for (const int peer : group.ranks) {
    const base::WaitPhrase phrase([peer] { return fmt::format("for world rank {} to connect", peer); });
    try {
      const std::string outcome = store.get(fmt::format("{}outcome/{}", prefix, peer), deadline);
      if (failure.empty() && !outcome.empty()) failure = fmt::format("rank {}: {}", peer, outcome);
    } catch (const TimeoutError&) {
      throw TimeoutError(fmt::format("world rank {} did not connect", peer));
    }
  }
  return failure;
}

}  // namespace

// A foreign connection to a socket on which Gloo waits for a peer makes the attempt fail. All ranks then try
// again.
std::unique_ptr<GlooCommunicator> connect_mesh(const GlooMembership& membership, rendezvous::Store& store,
                                               const group::GroupSpec& group, const std::vector<int>& names,
                                               const std::string& key,
                                               const std::shared_ptr<gloo::transport::Device>& device,
                                               Deadline deadline) {
  auto time = kFirstAttempt;
  for (int number = 0;; ++number, time *= 2) {
    const std::string prefix = fmt::format("gloo/{}/{}/", key, number);
    std::unique_ptr<GlooCommunicator> communicator;
    std::string failure;
    try {
      communicator =
          attempt(membership, store, group, names, prefix, device, std::min(deadline, Clock::now() + time));
    } catch (const std::exception& error) {
      failure = plain_text(error);
    }
    failure = first_failure(membership.rank(), store, group, prefix, failure, deadline);
    if (failure.empty()) return communicator;
    if (Clock::now() >= deadline) throw TimeoutError(fmt::format("not connected: {}", failure));
  }
}

}  // namespace syncbn::engines
