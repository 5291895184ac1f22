// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "syncbn/communicator.h"

namespace syncbn::testing {

/// Counts the messages that the engine inside is given.
class CountedCommunicator final : public Communicator {
 public:
  CountedCommunicator(std::unique_ptr<Communicator> engine, int& messages)
      : engine_(std::move(engine)), messages_(messages) {}
  int rank() const override { return engine_->rank(); }
  int size() const override { return engine_->size(); }
  std::span<std::int64_t> buffer(std::size_t words) override { return engine_->buffer(words); }
  void start(std::size_t words) override {
    ++messages_;
    engine_->start(words);
  }
  void wait(Deadline deadline) override { engine_->wait(deadline); }
  void abort() noexcept override { engine_->abort(); }

 private:
  const std::unique_ptr<Communicator> engine_;
  int& messages_;
};

}  // namespace syncbn::testing
