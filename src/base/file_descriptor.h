// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "base/engine_api.h"

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

}  // namespace syncbn::base
