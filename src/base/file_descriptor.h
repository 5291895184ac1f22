// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "base/engine_api.h"
#include "syncbn/communicator.h"

namespace syncbn::base {

/// Owns a file descriptor.
class SYNCBN_ENGINE_API Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

/// Waits until one of `events` (POLLIN, POLLOUT) holds for the descriptor. False if the deadline passed
/// first.
/// @throws Interrupted; PeerError with the system's reason
SYNCBN_ENGINE_API bool wait_ready(int fd, short events, Deadline deadline);

/// The milliseconds until the deadline for poll(), rounded up; 0 if the deadline has passed.
SYNCBN_ENGINE_API int poll_timeout(Deadline deadline);

}  // namespace syncbn::base
