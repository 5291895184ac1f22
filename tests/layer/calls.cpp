// SPDX-License-Identifier: Apache-2.0
#include "layer/calls.h"

#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

namespace syncbn::testing {

Call::Call(Shape of, DeviceVector<float> values)
    : shape(std::move(of)), x(std::move(values)), y(x.size()), dy(x.size()), dx(x.size()) {
  std::iota(dy.begin(), dy.end(), 1.0F);
}

ForwardTensors Call::forward_tensors() {
  return {view(std::as_const(x), shape), view(y, shape), std::nullopt};
}

BackwardTensors Call::backward_tensors() {
  return {view(std::as_const(dy), shape), view(std::as_const(x), shape), view(std::as_const(y), shape),
          view(dx, shape), std::nullopt};
}

Snapshot snapshot(SyncBatchNorm& layer) {
  Snapshot result;
  for (const StateEntry& entry : layer.state()) {
    const std::size_t width = entry.dtype ? size_of(*entry.dtype) : sizeof(std::int64_t);
    for (std::size_t i = 0; i < entry.size; ++i) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, static_cast<const std::byte*>(entry.data) + i * width, width);
      result.state.push_back(bits);
    }
  }
  if (layer.options().affine) {
    for (const char* name : {"weight_grad", "bias_grad"}) {
      for (const float value : layer.values<float>(name)) {
        result.gradients.push_back(std::bit_cast<std::uint32_t>(value));
      }
    }
  }
  const Saved& saved = layer.saved();
  result.saved = {static_cast<std::uint64_t>(saved.statistics), static_cast<std::uint64_t>(saved.count)};
  for (const auto* values : {&saved.mean, &saved.var, &saved.invstd, &saved.scale}) {
    for (const double value : *values) result.saved.push_back(std::bit_cast<std::uint64_t>(value));
  }
  return result;
}

}  // namespace syncbn::testing
