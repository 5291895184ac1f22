// SPDX-License-Identifier: Apache-2.0

// Values in the caller's memory: the same bits as in the layer's own, and nothing else moves.
//
// control: where bind does nothing, or set() writes to the layer's own memory, every case here fails.

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "layer/test_device.h"
#include "outcome.h"

namespace syncbn::testing {
namespace {

constexpr const char* kValues[] = {"weight",      "bias",        "running_mean",
                                   "running_var", "weight_grad", "bias_grad"};

struct Step {
  DeviceVector<float> x, y, dx;

  explicit Step(SyncBatchNorm& layer) : x(12), y(12), dx(12) {
    std::iota(x.begin(), x.end(), 1.0F);
    x[5] = -7;
    const Shape shape{2, 3, 2};
    layer.forward(view(x, shape), view(y, shape));
    layer.backward(view(x, shape), view(x, shape), view(dx, shape));
  }
};

// A caller's memory for all that a layer keeps.
template <class T>
struct Memory {
  std::vector<DeviceVector<T>> values{6, DeviceVector<T>(3, T(0.5))};
  std::int64_t batches = 4;

  void bind_to(SyncBatchNorm& layer) {
    for (std::size_t i = 0; i < values.size(); ++i) FrameworkHooks(layer).bind(kValues[i], values[i].data());
    FrameworkHooks(layer).bind("num_batches_tracked", &batches);
  }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    for (const auto& v : values) {
      const auto* first = reinterpret_cast<const std::byte*>(v.data());
      all.insert(all.end(), first, first + v.size() * sizeof(T));
    }
    return all;
  }
};

template <class T>
class Bind : public ::testing::Test {};
using Types = ::testing::Types<float16, bfloat16, float, double>;
TYPED_TEST_SUITE(Bind, Types);

TYPED_TEST(Bind, ValuesMoveInTheCallersMemory) {
  using T = TypeParam;
  SyncBatchNormOptions options;
  options.dtype = dtype_of<T>;
  options.momentum.reset();
  SyncBatchNorm own(3, options), bound(3, options);
  Memory<T> memory;
  memory.bind_to(bound);
  for (const char* name : kValues) {
    for (T& value : own.values<T>(name)) value = T(0.5);
  }
  own.values<std::int64_t>("num_batches_tracked")[0] = 4;

  const Step expected(own), got(bound);
  EXPECT_EQ(expected.y, got.y);
  EXPECT_EQ(expected.dx, got.dx);
  EXPECT_EQ(5, memory.batches);
  for (std::size_t i = 0; i < memory.values.size(); ++i) {
    EXPECT_EQ(0, std::memcmp(own.values<T>(kValues[i]).data(), memory.values[i].data(), 3 * sizeof(T)))
        << kValues[i];
    EXPECT_EQ(memory.values[i].data(), bound.values<T>(kValues[i]).data());
  }
}

TYPED_TEST(Bind, MemoryIsReplacedAndGivenBack) {
  using T = TypeParam;
  SyncBatchNormOptions options;
  options.dtype = dtype_of<T>;
  SyncBatchNorm layer(3, options);
  Memory<T> first, second;
  first.bind_to(layer);
  const auto before = first.bytes();
  const Step warm(layer);
  const auto kept = first.bytes();
  EXPECT_NE(before, kept);
  second.bind_to(layer);
  const Step again(layer);
  EXPECT_EQ(kept, first.bytes());
  EXPECT_EQ(kept, second.bytes());  // both began alike
  EXPECT_EQ(warm.y, again.y);

  for (const char* name : kValues) FrameworkHooks(layer).bind(name, nullptr);
  FrameworkHooks(layer).bind("num_batches_tracked", nullptr);
  EXPECT_EQ(1.0, static_cast<double>(layer.values<T>("weight")[0]));
  EXPECT_EQ(0, layer.values<std::int64_t>("num_batches_tracked")[0]);
  const Step own(layer);
  EXPECT_EQ(kept, second.bytes());
}

TEST(BindArguments, Named) {
  SyncBatchNormOptions options;
  options.affine = false;
  SyncBatchNorm layer(3, options);
  alignas(8) std::byte memory[32];
  const void* const own = layer.values<float>("running_mean").data();
  for (const char* name : {"weight", "bias_grad", "nope", ""}) {
    expect_error<InvalidArgument>([&] { FrameworkHooks(layer).bind(name, memory); },
                                  {"entry ... '" + std::string(name) + "'"});
  }
  for (const auto& [name, offset, bytes] :
       {std::tuple{"running_mean", 1, "4"}, {"running_var", 2, "4"}, {"num_batches_tracked", 4, "8"}}) {
    expect_error<InvalidArgument>(
        [&, &name = name, &offset = offset] { FrameworkHooks(layer).bind(name, memory + offset); },
        {name, std::string(bytes) + " bytes"});
  }
  EXPECT_EQ(layer.values<float>("running_mean").data(), own);
  EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 0);
  FrameworkHooks(layer).bind("running_mean", memory + 4);
  EXPECT_EQ(layer.values<float>("running_mean").data(), static_cast<void*>(memory + 4));
}

TEST(WithoutBias, AWeightAlone) {
  SyncBatchNormOptions options;
  options.bias = false;
  SyncBatchNorm without(3, options), with(3);
  for (float& value : without.values<float>("weight")) value = 2;
  for (float& value : with.values<float>("weight")) value = 2;
  const Step got(without), expected(with);
  EXPECT_EQ(expected.y, got.y);
  EXPECT_EQ(expected.dx, got.dx);
  EXPECT_EQ(with.values<float>("weight_grad")[1], without.values<float>("weight_grad")[1]);
  EXPECT_EQ(4U, without.state().size());
  EXPECT_THROW(without.values<float>("bias"), InvalidArgument);
  EXPECT_THROW(without.values<float>("bias_grad"), InvalidArgument);
  without.reset_parameters();
  EXPECT_EQ(1, without.values<float>("weight")[0]);
}

// Ranks with and without a bias make different calls.
TEST(WithoutBias, IsASetting) {
  run_ranks(2, [](int rank) {
    SyncBatchNormOptions options;
    options.bias = rank == 0;
    SyncBatchNorm layer(3, options);
    EXPECT_THROW(Step{layer}, MismatchError);
  });
}

}  // namespace
}  // namespace syncbn::testing
