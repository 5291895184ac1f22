// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data.h"
#include "syncbn/sync_batch_norm.h"

/// Loss and hits of a batch of samples. Losses are sums, so that they can be added.
struct Score {
  double loss = 0;  ///< Sum of the softmax cross-entropies.
  std::size_t correct = 0;
  std::size_t count = 0;
  double mean_loss() const { return loss / static_cast<double>(count); }
  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(count); }
};

/// linear(64 → hidden) → SyncBatchNorm → ReLU → linear(hidden → 10), softmax cross-entropy.
///
/// Outside the batch norm a sample's values never depend on the rank's other samples: each of its sums is
/// made separately, in a fixed order. So the bits of the batch norm's input do not depend on the split of a
/// batch over ranks, and neither do the bits of its output.
class Network {
 public:
  /// Weights are a function of the seed alone. @throws as SyncBatchNorm
  Network(std::size_t hidden, std::uint64_t seed, syncbn::ProcessGroup group);

  /// Forward and backward of this rank's share of a training step. `gradients()` are then this rank's part of
  /// the gradients of the mean loss over `global_count` samples. Collective over the layer's group.
  void train_step(const Digits& share, std::size_t global_count);
  /// Scores samples with the running statistics; nothing is sent.
  Score evaluate(const Digits& digits);

  /// Trainable values: first weights, weight and bias of the batch norm, second weights and bias.
  std::vector<std::span<float>> parameters();
  /// Gradients in the order of parameters(), one after the other.
  std::span<float> gradients() { return gradients_; }

  syncbn::SyncBatchNorm& norm() { return norm_; }
  std::size_t hidden() const { return hidden_; }
  /// The batch norm's output in the last train_step, and the gradient of its input: (samples of the share,
  /// hidden).
  const std::vector<float>& norm_output() const { return y_; }
  const std::vector<float>& norm_dx() const { return dx_; }

 private:
  void forward(std::span<const float> pixels, std::size_t samples);

  const std::size_t hidden_;
  std::vector<float> first_;   // (64, hidden); a bias would be lost in the batch norm
  std::vector<float> second_;  // (hidden, 10)
  std::vector<float> bias_;    // (10)
  syncbn::SyncBatchNorm norm_;

  std::vector<float> x_, y_, dy_, dx_;  // (samples, hidden) of the last call
  std::vector<float> logits_;           // (samples, 10)
  std::vector<float> gradients_;
};
