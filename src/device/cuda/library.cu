// SPDX-License-Identifier: Apache-2.0

// libsyncbn_cuda.so: the kernels, and the functions of Api on the CUDA runtime. One source for the compiler,
// so that the functions of src/exact become part of the kernels.

#include <cuda_runtime_api.h>

#include "device/api.h"
#include "device/launch.h"
#include "exact/exact_sum.cpp"
#include "exact/finish.cpp"
#include "exact/wide_int.cpp"

namespace syncbn::device {
namespace {

Api make_api() {
  Api api{};
  set_kernels(api);
  api.describe = [](int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); };
  api.count = [](int* devices) { return static_cast<int>(cudaGetDeviceCount(devices)); };
  api.use = [](int device, int* before) {
    cudaError_t error = cudaGetDevice(before);
    if (error == cudaSuccess && *before != device) error = cudaSetDevice(device);
    return static_cast<int>(error);
  };
  api.allocate = [](std::size_t bytes, void** memory) { return static_cast<int>(cudaMalloc(memory, bytes)); };
  api.release = [](void* memory) { return static_cast<int>(cudaFree(memory)); };
  api.copy = [](void* to, const void* from, std::size_t bytes, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue);
    if (error == cudaSuccess) error = cudaStreamSynchronize(queue);
    return static_cast<int>(error);
  };
  api.clear = [](void* memory, std::size_t bytes, void* stream) {
    return static_cast<int>(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
  };
  return api;
}

}  // namespace
}  // namespace syncbn::device

extern "C" __attribute__((visibility("default"))) const syncbn::device::Api* syncbn_device_api() {
  static const syncbn::device::Api api = syncbn::device::make_api();
  return &api;
}
