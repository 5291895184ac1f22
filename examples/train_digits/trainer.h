// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "data.h"
#include "digest.h"
#include "network.h"

/// The samples that share the batch norm's statistics.
enum class Statistics {
  synchronized,  ///< The whole global batch's.
  local,         ///< Each rank's own, as in data-parallel training without synchronization.
};

/// One rank's part of data-parallel training: SGD with momentum on the gradients of all ranks' samples, so
/// that parameters stay the same on every rank.
class Trainer {
 public:
  Trainer(const RunSettings& settings, const Digits& digits, Statistics statistics);

  /// One pass over the digits, an incomplete last batch left out. Collective over the world.
  void run_epoch();
  std::size_t epochs() const { return epochs_; }  ///< Completed.
  std::size_t steps_per_epoch() const { return digits_.count() / settings_.batch; }

  /// Rank 0 writes. @throws FileError
  void save(const std::string& path);
  /// Goes on from a saved file, if there is one: rank 0 reads it and gives it to the other ranks. Collective
  /// over the world. @throws FileError on every rank
  void resume(const std::string& path);

  /// Scores digits with this trainer's network; local statistics are rank 0's. Collective over the world.
  Score evaluate(const Digits& digits);

  /// Forward and backward of the next step, without the update; the network then holds its numbers.
  void differentiate(std::size_t step);
  Share share() const { return share_; }  ///< This rank's part of each global batch.
  Network& network() { return network_; }
  /// Digest of everything that a checkpoint holds. Collective. @throws std::runtime_error if parameters
  /// differ between ranks.
  Digest digest();

 private:
  Checkpoint snapshot();
  void restore(const Checkpoint& checkpoint);
  void update();

  const RunSettings settings_;
  const Statistics statistics_;
  const Digits& digits_;
  const Share share_;
  Network network_;
  std::vector<float> velocity_;
  std::size_t epochs_ = 0;
  std::vector<std::size_t> order_;  // of the epoch that runs
};
