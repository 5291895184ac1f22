// SPDX-License-Identifier: Apache-2.0

// A call like the one before allocates nothing, its views included: the layer keeps its memory, which is per
// channel.
//
// control: with Shape::kInlineDims = 2 both tests fail.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <span>
#include <vector>

#include "kernels/plan.h"
#include "syncbn/syncbn.h"

namespace {

std::atomic<std::size_t> allocations{0};
std::atomic<std::size_t> allocated_bytes{0};

void* counted(std::size_t size) {
  ++allocations;
  allocated_bytes += size;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace syncbn::testing {
namespace {

struct Allocated {
  std::size_t first_bytes, later_calls;
};

Allocated count(const Shape& shape, Layout layout, bool fused) {
  SyncBatchNorm layer(shape.channels());
  const auto size = static_cast<std::size_t>(shape.elements());
  std::vector<float> x(size), dy(size), y(size), dx(size);
  for (std::size_t i = 0; i < size; ++i) {
    x[i] = static_cast<float>(i * 7 % 101) - 50;
    dy[i] = static_cast<float>(i * 5 % 97) - 48;
  }
  const std::vector<float>&in = x, &gradient = dy;
  kernels::forced_paths().blocked = fused;
  const auto call = [&] {
    layer.forward({.x = view(in, shape, layout), .y = view(y, shape, layout)});
    layer.backward(
        {.dy = view(gradient, shape, layout), .x = view(in, shape, layout), .dx = view(dx, shape, layout)});
  };
  allocated_bytes = 0;
  call();
  const std::size_t first = allocated_bytes;
  call();  // the Saved of the first and the workspace have changed places
  allocations = 0;
  for (int i = 0; i < 3; ++i) call();
  const std::size_t later = allocations;
  kernels::forced_paths() = {};
  return {first, later};
}

// Making, copying and comparing. Control: a shape of more dimensions than fit inline allocates.
TEST(Allocations, NoneForAShapeOfUpToEightDimensions) {
  const std::vector<std::int64_t> sizes{2, 3, 1, 5, 1, 1, 7, 2, 4};
  for (const std::size_t dimensions : {2u, 8u, 9u}) {
    const auto dims = std::span(sizes).first(dimensions);
    allocations = 0;
    const Shape shape(dims);
    const ConstTensorView view{nullptr, DType::float32, shape};
    const ConstTensorView copy = view;
    const bool equal = copy.shape == shape && std::ranges::equal(copy.shape.dims(), dims);
    const std::size_t made = allocations;
    EXPECT_TRUE(equal) << dimensions;
    EXPECT_EQ(made == 0, dimensions <= Shape::kInlineDims)
        << dimensions << " dimensions, " << made << " allocations";
  }
}

TEST(Allocations, NoneInSteadyState) {
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    for (const bool fused : {false, true}) {
      for (const int threads : {1, 2}) {
        set_num_threads(threads);
        EXPECT_EQ(count({8, 40, 30, 30}, layout, fused).later_calls, 0u);
        EXPECT_EQ(count({2, 2, 2, 2}, layout, fused).later_calls, 0u);
        set_num_threads(0);
      }
    }
  }
}

// Beside what it is given a layer has its state and memory per channel; a float32 record has 22 words.
//
// control: a copy of x in start_forward() makes it fail.
TEST(Allocations, PeakIsPerChannel) {
  constexpr std::size_t kChannels = 40;
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    for (const bool fused : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << (layout == Layout::channels_first ? "channels-first" : "channels-last") << ", fused "
                   << fused);
      const std::size_t small = count({8, kChannels, 10, 10}, layout, fused).first_bytes;
      const std::size_t large = count({8, kChannels, 60, 60}, layout, fused).first_bytes;
      EXPECT_LE(large, small + 4096);  // whatever the threads' library takes
      EXPECT_LE(large, 8192 + kChannels * (22 + 5 + 5 + 4 + 4) * sizeof(double));
    }
  }
}

}  // namespace
}  // namespace syncbn::testing
