// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "syncbn/syncbn.h"

namespace syncbn::reliability {

/// One rank's part of a batch: whose data it is, and how many samples.
struct Share {
  int rank = 0;
  std::int64_t samples = 0;
};
using Shares = std::vector<Share>;  ///< By group rank.

/// A layer beside one that is given the whole group's batch alone: what they compute must have the same bits.
/// Whatever is wrong is a std::logic_error.
class CheckedLayer {
 public:
  CheckedLayer(std::int64_t channels, const SyncBatchNormOptions& options);

  /// Step `step` on the shares, of which `mine` is this rank's.
  void forward(int step, const Shares& shares, std::size_t mine);
  void backward(int step, const Shares& shares, std::size_t mine);
  /// Parameters, running statistics and counter, to be compared.
  std::vector<std::byte> state();
  void check_state();  ///< The same as those of the layer that is alone.
  SyncBatchNorm& layer() { return layer_; }
  /// A layer of the present world in the place of the old one, with its parameters and statistics.
  void join_again(const SyncBatchNormOptions& options);

 private:
  struct Data {
    std::vector<float> all, own;
    Shape all_shape{0, 1}, own_shape{0, 1};
    std::size_t offset = 0;
  };
  Data data(int step, const Shares& shares, std::size_t mine, std::uint64_t kind) const;
  static void compare(const std::vector<float>& own, const std::vector<float>& all, std::size_t offset,
                      const char* what);

  const std::int64_t channels_;
  SyncBatchNorm layer_;
  SyncBatchNorm alone_;
};

}  // namespace syncbn::reliability
