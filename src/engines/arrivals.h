// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engines/window_layout.h"
#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Waits in a shared window for ranks to bring their words, and says which ranks never will.
class Arrivals {
 public:
  /// True while the process of another rank lives.
  using Lives = std::function<bool(int rank)>;
  /// The words of ranks [first, last) of the window for an operation.
  struct Awaited {
    std::uint64_t operation;
    int first, last;
  };

  explicit Arrivals(const WindowLayout& window);
  /// From now on a wait ends within about 100 ms when a process for which it waits has died. Before, it ends
  /// at its deadline, since a rank's process may not have attached yet.
  void watch(Lives lives) { lives_ = std::move(lives); }
  /// The numbers of the window's ranks in messages.
  void set_names(std::vector<int> names) { names_ = std::move(names); }
  const std::vector<int>& names() const { return names_; }

  bool complete(const Awaited& awaited) const;
  /// Yields the processor for up to 1 ms, then sleeps on the bell. Calls `look` about every 100 ms.
  /// @throws PeerError, TimeoutError with the ranks; what `look` throws
  void await(const Awaited& awaited, Deadline deadline, const std::function<void()>& look) const;
  /// Ends all waits of this rank with a PeerError.
  void abort() noexcept { aborted_ = true; }
  bool aborted() const { return aborted_; }

 private:
  std::span<RankLine> lines(const Awaited& awaited) const;
  bool settled(const Awaited& awaited) const;
  std::vector<int> missing(const Awaited& awaited) const;
  std::string departures(const Awaited& awaited) const;

  const WindowLayout window_;
  std::vector<int> names_;
  Lives lives_ = [](int) { return true; };
  std::atomic<bool> aborted_ = false;
};

/// How long a rank yields before it sleeps. A wake-up costs about 10 µs; a computing neighbour loses 0.14 %
/// to a yielding rank. With 1 ms of computing before each call, 2 ranks need 3.4 to 4.0 µs a sum at 1
/// ms, 16.6 at 0.2 ms.
inline constexpr auto kYield = std::chrono::milliseconds(1);

/// Yields the processor until `ready` or `until`.
template <class Ready>
void yield_until(const Ready& ready, Deadline until) {
  while (!ready() && std::chrono::steady_clock::now() < until) sched_yield();
}

}  // namespace syncbn::engines
