// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "layer/core.h"

namespace syncbn::layer {

class DoubleBackwardPart final : public CallPart {
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

  Core& layer_;
  const Saved& from_;
  const BackwardSums& sums_;
  const DoubleBackwardTensors& tensors_;
  const kernels::Geometry geometry_;
  const kernels::Kernels& kernels_;
  Column own_q_;
};

}  // namespace syncbn::layer
