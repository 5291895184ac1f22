// SPDX-License-Identifier: Apache-2.0

// Calls whose instructions count.py counts: `counted_calls CASE DIRECTION` makes the call twice, so that
// nothing is counted that happens once, and the second time in counted_call(), where callgrind looks.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "syncbn/sync_batch_norm.h"

namespace {

struct Case {
  const char* name;
  syncbn::Shape shape;
  syncbn::Layout layout;
};
const Case kCases[] = {
    {"rows", {2, 16, 56, 56}, syncbn::Layout::channels_first},     // long rows: the kernels
    {"columns", {2, 128, 20, 20}, syncbn::Layout::channels_last},  // one channel a lane
    {"tiny", {2, 2, 2, 2}, syncbn::Layout::channels_first},        // what a call costs by itself
};

int usage() {
  std::fprintf(stderr, "usage: counted_calls rows|columns|tiny forward|backward\n");
  return 2;
}

}  // namespace

extern "C" [[gnu::noinline]] void counted_call(const std::function<void()>& call) { call(); }

int main(int argc, char** argv) {
  if (argc != 3) return usage();
  const bool forward = std::strcmp(argv[2], "forward") == 0;
  if (!forward && std::strcmp(argv[2], "backward") != 0) return usage();
  for (const Case& c : kCases) {
    if (std::strcmp(argv[1], c.name) != 0) continue;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(c.shape.elements())), dy(x.size()), y(x.size()),
        dx(x.size());
    for (float& value : x) value = normal(random);
    for (float& value : dy) value = normal(random);
    syncbn::SyncBatchNorm layer(c.shape.channels());
    const std::vector<float>&read = x, &gradient = dy;
    const auto call = [&, in = view(read, c.shape, c.layout), out = view(y, c.shape, c.layout),
                       grad = view(gradient, c.shape, c.layout), grad_in = view(dx, c.shape, c.layout)] {
      forward ? layer.forward(in, out) : layer.backward(grad, in, grad_in);
    };
    layer.forward(view(read, c.shape, c.layout), view(y, c.shape, c.layout));
    call();
    counted_call(call);
    return 0;
  }
  return usage();
}
