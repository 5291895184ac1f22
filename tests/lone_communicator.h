// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "syncbn/communicator.h"

namespace syncbn::testing {

/// A group of one. Such a group needs no engine, so nothing of this is called.
class LoneCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::span<std::int64_t> buffer(std::size_t) override { return {}; }
  void start(std::size_t) override {}
  void wait(Deadline) override {}
  void abort() noexcept override {}
};

}  // namespace syncbn::testing
