// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "device/emulated_device.h"
#include "layer/guarded_device.h"
#include "syncbn/framework.h"
#include "syncbn/syncbn.h"

/// The layer and its tensors on the device that the tests run on. Tests use these names as those of syncbn.
namespace syncbn::testing {

/// The device that SYNCBN_TEST_DEVICE names: none: the CPU; guarded; emulated, whose kernels are those of GPUs;
/// mixed: the CPU and the emulated device, by turns of the threads, and so of the ranks.
inline Device test_device() {
  static const std::string_view name = [] {
    const char* value = std::getenv("SYNCBN_TEST_DEVICE");
    return std::string_view(value == nullptr ? "" : value);
  }();
  if (name == "guarded") return guarded_device();
  if (name == "emulated") return device::emulated_device();
  if (name != "mixed") return {};
  static std::atomic<unsigned> threads{0};
  thread_local const bool on_cpu = threads++ % 2 == 0;
  return on_cpu ? Device{} : device::emulated_device();
}

template <class T>
struct DeviceAllocator {
  using value_type = T;
  DeviceAllocator() = default;
  template <class U>
  explicit DeviceAllocator(const DeviceAllocator<U>&) {}
  T* allocate(std::size_t size) {
    if (test_device() == guarded_device()) return static_cast<T*>(allocate_guarded(size * sizeof(T)));
    return std::allocator<T>().allocate(size);
  }
  void deallocate(T* values, std::size_t size) noexcept {
    if (test_device() == guarded_device()) return release_guarded(values);
    std::allocator<T>().deallocate(values, size);
  }
  friend bool operator==(const DeviceAllocator&, const DeviceAllocator&) { return true; }
};
/// Elements of a tensor. The test reads and writes them between calls of the layer.
template <class T>
using DeviceVector = std::vector<T, DeviceAllocator<T>>;

template <class T>
TensorView view(DeviceVector<T>& data, Shape shape, Layout layout = Layout::channels_first) {
  TensorView tensor = syncbn::view(std::span<T>(data), std::move(shape), layout);
  tensor.device = test_device();
  return tensor;
}
template <class T>
ConstTensorView view(const DeviceVector<T>& data, Shape shape, Layout layout = Layout::channels_first) {
  ConstTensorView tensor = syncbn::view(std::span<const T>(data), std::move(shape), layout);
  tensor.device = test_device();
  return tensor;
}

inline SyncBatchNormOptions on_test_device(SyncBatchNormOptions options) {
  options.device = test_device();
  return options;
}

class SyncBatchNorm : public syncbn::SyncBatchNorm {
 public:
  explicit SyncBatchNorm(std::int64_t num_features, const SyncBatchNormOptions& options = {},
                         const ClosedMemory& = {})
      : syncbn::SyncBatchNorm(num_features, on_test_device(options)) {}

  void forward(const ForwardTensors& tensors) {
    const ClosedMemory closed;
    syncbn::SyncBatchNorm::forward(tensors);
  }
  void forward(const ForwardTensors& tensors, Saved& saved) {
    const ClosedMemory closed;
    syncbn::SyncBatchNorm::forward(tensors, saved);
  }
  void forward(const ConstTensorView& x, const TensorView& y) { forward({.x = x, .y = y}); }
  void backward(const BackwardTensors& tensors) {
    const ClosedMemory closed;
    syncbn::SyncBatchNorm::backward(tensors);
  }
  void backward(const Saved& saved, const BackwardTensors& tensors) {
    const ClosedMemory closed;
    syncbn::SyncBatchNorm::backward(saved, tensors);
  }
  void backward(const ConstTensorView& dy, const ConstTensorView& x, const TensorView& dx) {
    backward({.dy = dy, .x = x, .dx = dx});
  }
  void reset_parameters() {
    const ClosedMemory closed;
    syncbn::SyncBatchNorm::reset_parameters();
  }
  void reset_running_stats() {
    const ClosedMemory closed;
    syncbn::SyncBatchNorm::reset_running_stats();
  }
};

class FrameworkHooks : public syncbn::FrameworkHooks {
 public:
  using syncbn::FrameworkHooks::FrameworkHooks;

  void normalize(const ForwardTensors& tensors, Saved& saved) {
    const ClosedMemory closed;
    syncbn::FrameworkHooks::normalize(tensors, saved);
  }
  void track(const Saved& saved) {
    const ClosedMemory closed;
    syncbn::FrameworkHooks::track(saved);
  }
  void backward(const Saved& saved, const BackwardTensors& tensors, BackwardSums& sums) {
    const ClosedMemory closed;
    syncbn::FrameworkHooks::backward(saved, tensors, sums);
  }
  void double_backward(const Saved& saved, const BackwardSums& sums, const DoubleBackwardTensors& tensors) {
    const ClosedMemory closed;
    syncbn::FrameworkHooks::double_backward(saved, sums, tensors);
  }
};

class JointCall : public syncbn::JointCall {
 public:
  void forward(SyncBatchNorm& layer, const ForwardTensors& tensors, Saved& saved) {
    const ClosedMemory closed;
    syncbn::JointCall::forward(layer, tensors, saved);
  }
  void backward(SyncBatchNorm& layer, const Saved& saved, const BackwardTensors& tensors) {
    const ClosedMemory closed;
    syncbn::JointCall::backward(layer, saved, tensors);
  }
  void start() {
    const ClosedMemory closed;
    syncbn::JointCall::start();
  }
  void finish() {
    const ClosedMemory closed;
    syncbn::JointCall::finish();
  }
};

}  // namespace syncbn::testing
