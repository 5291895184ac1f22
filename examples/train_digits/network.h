// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data.h"
#include "syncbn/sync_batch_norm.h"

/// Loss and hits of `count` samples.
struct Score {
  double loss;     ///< Sum of the softmax cross-entropies, exact and rounded once.
  double correct;  ///< Number of hits.
  std::size_t count;
  double mean_loss() const { return loss / static_cast<double>(count); }
  double accuracy() const { return correct / static_cast<double>(count); }
};

/// linear(64 → hidden) → SyncBatchNorm → ReLU → linear(hidden → 10), softmax cross-entropy.
///
/// A sample's values never depend on the rank's other samples: outside the batch norm each of its sums is
/// made separately, in a fixed order. Sums over samples are exact over all ranks and rounded once. So no bit
/// of a training run depends on the split of its batches over ranks.
class Network {
 public:
  /// Weights are a function of the seed alone. `statistics`: name of the group whose samples share the batch
  /// norm's statistics. `rounding`: name of the group whose samples are summed before the sum is rounded; the
  /// world, or this rank alone as a control. @throws as SyncBatchNorm
  Network(std::size_t hidden, std::uint64_t seed, const std::string& statistics, const std::string& rounding);

  /// Forward and backward of this rank's share of a training step. `gradients()` are then the gradients of
  /// the mean loss over the `global_count` samples of all ranks. Collective over the world.
  void train_step(const Digits& share, std::size_t global_count);
  /// Scores all digits with the running statistics. Each rank takes its rows. Collective over the world.
  Score evaluate(const Digits& digits, Share rows);

  /// Trainable values: first weights, weight and bias of the batch norm, second weights and bias.
  std::vector<std::span<float>> parameters();
  /// Gradients in the order of parameters(), one after the other; the same on every rank.
  std::span<float> gradients() { return gradients_; }

  syncbn::SyncBatchNorm& norm() { return norm_; }
  std::size_t hidden() const { return hidden_; }
  /// The batch norm's output in the last train_step, and the gradient of its input: (samples of the share,
  /// hidden).
  const std::vector<float>& norm_output() const { return y_; }
  const std::vector<float>& norm_dx() const { return dx_; }

 private:
  void forward(std::span<const float> pixels, std::size_t samples);
  void sum_products(const syncbn::ConstTensorView& a, const syncbn::ConstTensorView& b,
                    std::span<float> products);

  const std::size_t hidden_;
  const std::string rounding_;
  const bool adds_norm_gradients_;  // the batch norm leaves the sums over the ranks to the network
  std::vector<float> first_;        // (64, hidden); a bias would be lost in the batch norm
  std::vector<float> second_;       // (hidden, 10)
  std::vector<float> bias_;         // (10)
  syncbn::SyncBatchNorm norm_;

  std::vector<float> x_, y_, dy_, dx_;  // (samples, hidden) of the last call
  std::vector<float> logits_;           // (samples, 10)
  std::vector<float> ones_;             // (samples, 1)
  std::vector<float> gradients_;
};
