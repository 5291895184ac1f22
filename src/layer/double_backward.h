// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "layer/core.h"

namespace syncbn::layer {

class DoubleBackwardPart final : public LayerPart {
 public:
  DoubleBackwardPart(Core& layer, const Saved& from, const BackwardSums& sums,
                     const DoubleBackwardTensors& tensors);

  void check() const override;
  std::size_t words() const override;
  void start(std::span<std::int64_t> message) override;
  void finish(std::span<const std::int64_t> message) override;
  void run_alone() override;
  void commit() override {}

 private:
  kernels::DoubleBackwardCall call();

  const Saved& from_;
  const BackwardSums& sums_;
  const DoubleBackwardTensors& tensors_;
  Column own_q_;
};

}  // namespace syncbn::layer
