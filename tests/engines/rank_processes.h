// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engines/shared_window.h"

/// Ranks as forked processes, for tests of what processes share.
namespace syncbn::testing {

/// What `body` did: the text that it returned, or "PeerError: …" for what it threw.
std::string outcome_of(const std::function<std::string()>& body);

/// Forks one process a rank, each of which runs `body`. Kills what still runs when it goes.
class RankProcesses {
 public:
  using Body = std::function<std::string(int rank)>;
  RankProcesses(int size, const Body& body);
  ~RankProcesses();
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  void signal(int rank, int number) const;
  /// Waits for the rank's process: outcome_of its body, "signal 9" if it was killed, "still runs" after 60 s.
  std::string outcome(int rank);

 private:
  struct Process {
    pid_t pid = -1;
    int report = -1;
  };
  std::vector<Process> processes_;
};

/// A window's memory that the ranks of RankProcesses attach to.
class WindowMemory {
 public:
  explicit WindowMemory(const engines::WindowShape& shape);
  /// The window of a rank, in its own process. All ranks have attached when it returns, and a rank's death is
  /// seen.
  std::unique_ptr<engines::SharedWindow> attach(int rank) const;
  /// Mapped in this process.
  std::shared_ptr<const engines::SharedMemory> memory() const { return memory_; }
  const engines::WindowShape& shape() const { return shape_; }

 private:
  const engines::WindowShape shape_;
  const std::shared_ptr<const engines::SharedMemory> memory_;
};

/// Deterministic words that make sums wrap. Different for each rank, round and position.
std::int64_t word_of(int rank, int round, std::size_t i);
/// Sums `words` such words. "" if the sum is right, else what is wrong.
std::string sum_once(Communicator& window, int round, std::size_t words, std::chrono::milliseconds patience);

}  // namespace syncbn::testing
