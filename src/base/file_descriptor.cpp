// SPDX-License-Identifier: Apache-2.0
#include "base/file_descriptor.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>

#include "base/interrupt.h"
#include "syncbn/error.h"

namespace syncbn::base {

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

bool wait_ready(int fd, short events, Deadline deadline) {
  pollfd entry{fd, events, 0};
  for (;;) {
    const int ready = poll(&entry, 1, poll_timeout(next_poll(deadline)));
    if (ready > 0) return true;
    if (ready == 0 && std::chrono::steady_clock::now() >= deadline) return false;
    if (ready < 0 && errno != EINTR) throw PeerError("poll: " + std::generic_category().message(errno));
    check_interrupt();
  }
}

int poll_timeout(Deadline deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left + 0)>(left, 0, 1'000'000));
}

}  // namespace syncbn::base
