// SPDX-License-Identifier: Apache-2.0

// Layers on CUDA devices, as a program makes them: the library is found and loaded, here the one whose
// kernels the executor runs.

#include <gtest/gtest.h>

#include <cstdlib>
#include <utility>
#include <vector>

#include "outcome.h"
#include "syncbn/syncbn.h"

namespace syncbn {
namespace {

constexpr Device kFirst{Device::Type::cuda, 0};

SyncBatchNorm layer_on(Device device) { return SyncBatchNorm(2, {.device = device}); }
// Variables of the process, so one test after the other.
void set_library(const char* name) { setenv("SYNCBN_CUDA_LIBRARY", name, 1); }

TEST(CudaDevices, ErrorsUntilTheLibraryIsThere) {
  set_library("libsyncbn_absent.so");
  testing::expect_error<InvalidArgument>([] { layer_on(kFirst); },
                                         {"device", "libsyncbn_absent.so ... SYNCBN_CUDA_LIBRARY"});
  set_library("libm.so.6");
  testing::expect_error<InvalidArgument>([] { layer_on(kFirst); }, {"device", "libm.so.6 ... kernels"});
  set_library(SYNCBN_EMULATED);
  EXPECT_EQ(kFirst, layer_on(kFirst).options().device);
  testing::expect_error<InvalidArgument>(
      [] {
        layer_on({Device::Type::cuda, 1});
      },
      {"device", "cuda:1 ... cpu:0, cuda:0"});
}

// A step of training on the device and one on the CPU: the same bits.
TEST(CudaDevices, TrainAsTheCpuDoes) {
  set_library(SYNCBN_EMULATED);
  const Shape shape{3, 2, 5};
  std::vector<float> x, dy;
  for (int i = 0; i < 30; ++i) {
    x.push_back(static_cast<float>(i * i % 17) / 7);
    dy.push_back(static_cast<float>(i % 5) - 1.5F);
  }
  std::vector<std::vector<float>> results[2];
  for (const Device device : {Device{}, kFirst}) {
    run_ranks(1, [&](int) {
      SyncBatchNorm layer = layer_on(device);
      std::vector<float> y(30), dx(30);
      const auto on_device = [&](auto tensor) {
        tensor.device = device;
        return tensor;
      };
      int stream = 0;
      const OnStream on_stream(&stream);
      layer.forward(on_device(view(std::as_const(x), shape)), on_device(view(y, shape)));
      layer.backward(on_device(view(std::as_const(dy), shape)), on_device(view(std::as_const(x), shape)),
                     on_device(view(dx, shape)));
      auto& result = results[device == kFirst ? 1 : 0];
      result = {y, dx};
      for (const char* name : {"running_mean", "running_var", "weight_grad", "bias_grad"}) {
        const auto values = layer.values<float>(name);
        result.emplace_back(values.begin(), values.end());
      }
      EXPECT_EQ(1, layer.values<std::int64_t>("num_batches_tracked")[0]);
    });
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST(CudaDevices, NoDoubleBackwardAndNoMatmul) {
  set_library(SYNCBN_EMULATED);
  std::vector<float> a(4), c(4);
  const auto matrix = [](std::vector<float>& data) {
    TensorView tensor = view(data, Shape{2, 2});
    tensor.device = kFirst;
    return tensor;
  };
  run_ranks(1, [&](int) {
    testing::expect_error<InvalidArgument>([&] { all_reduce_matmul(matrix(a), matrix(a), matrix(c)); },
                                           {"all_reduce_matmul", "cuda:0 ... CPU"});
  });
}

}  // namespace
}  // namespace syncbn
