// SPDX-License-Identifier: Apache-2.0
#include "engines/gloo_attendance.h"

#include <fmt/core.h>

#include <chrono>
#include <utility>

#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

// Time for all requests of one function. A waiting rank must neither miss its sum meanwhile nor exceed its
// deadline by much.
constexpr auto kRequestTime = std::chrono::milliseconds(300);

}  // namespace

GlooAttendance::GlooAttendance(rendezvous::StoreAddress address, std::string key, int rank, int size)
    : address_(std::move(address)), key_(std::move(key)), rank_(rank), size_(size) {}

// A rank has a counter and not a key, because a get() of a key that is not set would wait.
void GlooAttendance::report_waiting(std::int64_t sum) {
  if (unavailable_) return;
  try {
    connect().add(counter(rank_), sum - reported_);
    reported_ = sum;
  } catch (const Error&) {
    unavailable_ = true;
  }
}

std::vector<int> GlooAttendance::absent_from(std::int64_t sum) {
  try {
    if (unavailable_) return {};
    std::vector<int> absent;
    rendezvous::TcpStore store = connect();
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != rank_ && store.add(counter(rank), 0) < sum) absent.push_back(rank);
    }
    return absent;
  } catch (const Error&) {
    unavailable_ = true;
    return {};
  }
}

rendezvous::TcpStore GlooAttendance::connect() const {
  return address_.connect(std::chrono::steady_clock::now() + kRequestTime);
}

std::string GlooAttendance::counter(int rank) const { return fmt::format("{}{}", key_, rank); }

}  // namespace syncbn::engines
