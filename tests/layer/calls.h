// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "layer/test_device.h"
#include "outcome.h"

/// Float32 calls and a layer's state as bits, for tests of semantics and errors.
namespace syncbn::testing {

/// A batch with room for what the layer writes. dy is 1, 2, 3, …
struct Call {
  Call(Shape of, DeviceVector<float> values);
  ForwardTensors forward_tensors();
  BackwardTensors backward_tensors();
  void forward(SyncBatchNorm& layer) { layer.forward(forward_tensors()); }
  void backward(SyncBatchNorm& layer) { layer.backward(backward_tensors()); }

  Shape shape;
  DeviceVector<float> x, y, dy, dx;
};

/// Everything in a float32 layer that a failed call must leave as it is.
struct Snapshot {
  std::vector<std::uint64_t> state, gradients, saved;
  friend bool operator==(const Snapshot&, const Snapshot&) = default;
};
Snapshot snapshot(SyncBatchNorm& layer);

}  // namespace syncbn::testing
