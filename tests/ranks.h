// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "engines/threads.h"
#include "outcome.h"
#include "syncbn/communicator.h"
#include "syncbn/error.h"
#include "syncbn/group.h"

namespace syncbn::testing {

using namespace std::chrono_literals;

/// For everything that must come: long, so that a loaded machine fails no test.
inline Deadline soon() { return std::chrono::steady_clock::now() + 60s; }

inline std::vector<int> first_ranks(int size) {
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// Passes everything on and keeps the length of each message.
class CountingCommunicator : public Communicator {
 public:
  CountingCommunicator(std::unique_ptr<Communicator> inner, std::vector<std::size_t>& lengths)
      : inner_(std::move(inner)), lengths_(lengths) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::span<std::int64_t> buffer(std::size_t words) override { return inner_->buffer(words); }
  void start(std::size_t words) override {
    lengths_.push_back(words);
    inner_->start(words);
  }
  void wait(Deadline deadline) override { inner_->wait(deadline); }
  void abort() noexcept override { inner_->abort(); }

 private:
  const std::unique_ptr<Communicator> inner_;
  std::vector<std::size_t>& lengths_;  // a rank's own
};

/// The outcome of `body` on ranks as threads, each with a communicator of one group of all of them.
inline std::vector<std::string> on_ranks(int size, const std::function<void(Communicator&)>& body) {
  const auto world = std::make_shared<engines::ThreadWorld>(size);
  return outcomes(size, [&](int rank) {
    body(*world->connect({"all", first_ranks(size), 0}, rank, soon()));
  });
}

}  // namespace syncbn::testing
