// SPDX-License-Identifier: Apache-2.0

// The device of a layer and of its tensors. That the layer's own code touches no memory of a device is shown
// by the whole program on the guarded device (SYNCBN_TEST_DEVICE=guarded, layer_test/guarded_device in
// ctest).
//
// control: GuardedDeathTest shows that an access between kernels ends the program;
// tests/mutations/faults.toml has a read of a tensor, of a saved column and of the counter.

#include <gtest/gtest.h>

#include <cstdio>
#include <optional>
#include <vector>

#include "layer/calls.h"

namespace syncbn::testing {
namespace {

constexpr Device kUnknown{static_cast<Device::Type>(9), 1};

syncbn::SyncBatchNorm guarded_layer() {
  SyncBatchNormOptions options;
  options.device = guarded_device();
  return syncbn::SyncBatchNorm(2, options);
}

TEST(Devices, UnknownOnesAreRefused) {
  SyncBatchNormOptions options;
  options.device = kUnknown;
  expect_error<InvalidArgument>([&] { const syncbn::SyncBatchNorm layer(2, options); },
                                {"device", "type 9:1 ... cpu:0"});
}

TEST(Devices, TensorsAreOnTheLayersDevice) {
  std::vector<float> x(4), y(4);
  const Shape shape{2, 2};
  syncbn::SyncBatchNorm on_guarded = guarded_layer(), on_cpu(2);
  expect_error<InvalidArgument>([&] { on_guarded.forward(syncbn::view(x, shape), syncbn::view(y, shape)); },
                                {"x", "cpu:0 ... guarded:0"});
  TensorView elsewhere = syncbn::view(y, shape);
  elsewhere.device = guarded_device();
  expect_error<InvalidArgument>([&] { on_cpu.forward(syncbn::view(x, shape), elsewhere); },
                                {"y", "guarded:0 ... cpu:0"});
}

TEST(Devices, SavedColumnsAreOnTheLayersDevice) {
  SyncBatchNorm layer(2);
  Call call({2, 2}, {1, 2, 3, 5});
  call.forward(layer);
  syncbn::SyncBatchNorm other = test_device() == Device{} ? guarded_layer() : syncbn::SyncBatchNorm(2);
  BackwardTensors tensors{call.backward_tensors().dy, call.backward_tensors().x};
  tensors.dy.device = tensors.x.device = other.options().device;
  expect_error<InvalidArgument>([&] { other.backward(layer.saved(), tensors); }, {"saved", "device"});
}

// Copies of columns stay on their device.
TEST(Devices, SavedIsCopied) {
  Call call({2, 2}, {1, 2, 3, 5});
  SyncBatchNorm layer(2);
  call.forward(layer);
  std::optional<Saved> copy;
  {
    const ClosedMemory closed;
    copy = layer.saved();
    EXPECT_EQ(copy->mean, layer.saved().mean);
  }
  EXPECT_EQ(&copy->mean.memory(), &layer.saved().mean.memory());
  call.backward(layer);
  const DeviceVector<float> dx = call.dx;
  layer.backward(*copy, call.backward_tensors());
  EXPECT_EQ(dx, call.dx);
}

TEST(Devices, TheTestsDeviceIsInUse) {
  const long calls = guarded_kernel_calls();
  Call call({2, 2}, {1, 2, 3, 5});
  SyncBatchNorm layer(2);
  call.forward(layer);
  EXPECT_EQ(guarded_kernel_calls() > calls, test_device() == guarded_device());
}

TEST(GuardedDeathTest, ControlTouchBetweenKernels) {
  void* const memory = allocate_guarded(1);
  EXPECT_DEATH(
      {
        const ClosedMemory closed;
        std::fprintf(stderr, "%d", *static_cast<volatile char*>(memory));
      },
      "");
  release_guarded(memory);
}

}  // namespace
}  // namespace syncbn::testing
