#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "outcome.h"
#include "syncbn/syncbn.h"

/// What the tests of semantics and errors share: float32 calls, a layer's state as bits, and each rank's
/// outcome.
namespace syncbn::testing {

/// A batch with room for what the layer writes. dy is 1, 2, 3, …
struct Call {
  Call(Shape of, std::vector<float> values);
  ForwardTensors forward_tensors();
  BackwardTensors backward_tensors();
  void forward(SyncBatchNorm& layer) { layer.forward(forward_tensors()); }
  void backward(SyncBatchNorm& layer) { layer.backward(backward_tensors()); }

  Shape shape;
  std::vector<float> x, y, dy, dx;
};

/// Everything in a float32 layer that a failed call must leave as it is.
struct Snapshot {
  std::vector<std::uint64_t> state, gradients, saved;
  friend bool operator==(const Snapshot&, const Snapshot&) = default;
};
Snapshot snapshot(SyncBatchNorm& layer);

/// The outcome of each rank of a world of threads.
std::vector<std::string> outcomes(int size, const std::function<void(int rank)>& body);
inline std::vector<std::string> all(int size, const std::string& outcome) {
  return std::vector<std::string>(static_cast<std::size_t>(size), outcome);
}

}  // namespace syncbn::testing
