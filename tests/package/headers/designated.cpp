// SPDX-License-Identifier: Apache-2.0

// Names only the fields that it has. With -Wall -Wextra -Werror a field without a default would be an error
// here.
#include <vector>

#include "syncbn/framework.h"
#include "syncbn/syncbn.h"

int main() {
  const syncbn::Shape shape{2, 1, 3};
  const std::vector<float> x{0, 1, 2, 3, 4, 5};
  std::vector<float> y(x.size()), dx(x.size());
  const syncbn::TensorView out{.data = y.data(), .dtype = syncbn::DType::float32, .shape = shape};
  const syncbn::ConstTensorView in{.data = x.data(), .dtype = syncbn::DType::float32, .shape = shape};
  syncbn::init(syncbn::InitOptions{.size = 1});
  syncbn::SyncBatchNorm layer(1, {.momentum = 0.2, .name = "bn"});
  layer.forward({.x = in, .y = out});
  layer.backward({.dy = in, .x = in, .dx = view(dx, shape)});
  syncbn::BackwardSums sums{.a = {}};
  const syncbn::Saved saved{.count = 6};
  const syncbn::StateEntry entry{.name = "weight"};
  const syncbn::DoubleBackwardTensors twice{.dy = in, .x = in, .ddx = in};
  return sums.b.empty() && saved.mean.empty() && entry.data == nullptr && !twice.y ? 0 : 1;
}
