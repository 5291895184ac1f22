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

/// SYNCBN_TEST_DEVICE names the device that the tests run on. None: the CPU; guarded; emulated, whose kernels
/// are those of GPUs; mixed: threads, and so ranks, are on the CPU and on the emulated device by turns.
inline std::string_view test_device_name() {
  static const char* const value = std::getenv("SYNCBN_TEST_DEVICE");
  return value == nullptr ? "" : value;
}
inline bool is_guarded() {
  static const bool guarded = test_device_name() == "guarded";
  return guarded;
}
/// The device of the calling thread.
inline Device test_device() {
  static const bool emulated = test_device_name() == "emulated", mixed = test_device_name() == "mixed";
  static std::atomic<unsigned> threads{0};
  thread_local const unsigned number = threads++;
  if (is_guarded()) return guarded_device();
  return emulated || (mixed && number % 2 == 1) ? device::emulated_device() : Device{};
}

template <class T>
struct DeviceAllocator {
  using value_type = T;
  DeviceAllocator() = default;
  template <class U>
  explicit DeviceAllocator(const DeviceAllocator<U>&) {}
  T* allocate(std::size_t size) {
    if (is_guarded()) return static_cast<T*>(allocate_guarded(size * sizeof(T)));
    return std::allocator<T>().allocate(size);
  }
  void deallocate(T* values, std::size_t size) noexcept {
    if (is_guarded()) return release_guarded(values);
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
