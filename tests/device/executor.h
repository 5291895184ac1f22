// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <stdexcept>

/// Runs kernels on the host: the operations that src/device/simt.h declares. The threads of a block are
/// fibers that take turns in a chosen order, and blocks run one after the other in that order. Shared memory
/// begins with nonsense. So a missing barrier gives wrong results in some order. Threads that wait for others
/// in vain are a Fault, as are misaligned accesses and too much shared memory.
namespace syncbn::device::simt {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order : std::uint8_t { forward, backward, shuffled };

/// Order of threads and blocks.
struct Schedule {
  Order order = Order::forward;
  unsigned seed = 1;
};

/// The schedule of the calling thread's kernels while it lives.
class Scheduled {
 public:
  explicit Scheduled(Order order, unsigned seed = 1);
  ~Scheduled();
  Scheduled(const Scheduled&) = delete;
  Scheduled& operator=(const Scheduled&) = delete;

 private:
  Schedule before_;
};

}  // namespace syncbn::device::simt
