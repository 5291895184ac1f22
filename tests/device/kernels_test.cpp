// SPDX-License-Identifier: Apache-2.0

// All kernels of a device, which the executor runs, against those of the CPU: the same calls, the same bits
// in every output, column, buffer and gradient.

#include "kernels/kernels.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "device/emulated_device.h"
#include "device/executor.h"
#include "kernels/data.h"

namespace syncbn::device {
namespace {

using kernels::Kind;
using simt::Order;

// A call's data on both devices.
template <class Storage, class Parameter>
class Twins {
 public:
  Twins(const kernels::Geometry& g, Kind kind, std::mt19937_64& random)
      : g_(g), cpu_(kernels::cpu()), device_(*kernels::find_device(emulated_device())) {
    const auto count = static_cast<std::size_t>(g.elements());
    const auto channels = static_cast<std::size_t>(g.channels);
    x_ = kernels::draw<Storage>(kind, count, random);
    residual_ = kernels::draw<Storage>(Kind::ordinary, count, random);
    dy_ = kernels::draw<Storage>(kind == Kind::special ? Kind::ordinary : kind, count, random);
    weight_ = kernels::draw<Parameter>(Kind::ordinary, channels, random);
    bias_ = kernels::draw<Parameter>(Kind::ordinary, channels, random);
    const auto running_mean = kernels::draw<Parameter>(Kind::ordinary, channels, random);
    std::vector<Parameter> running_var;
    for (const Parameter v : kernels::draw<Parameter>(Kind::ordinary, channels, random)) {
      running_var.push_back(Parameter(static_cast<double>(v) + 1));
    }
    for (Side* side : {&cpu_, &device_}) {
      side->y.assign(count, Storage(7.0));
      side->dx = side->d_residual = side->y;
      side->running_mean = running_mean;
      side->running_var = running_var;
      side->weight_grad = side->bias_grad = running_mean;
      side->records.assign(static_cast<std::size_t>(g.channels * exact::sum_format(g.dtype).words()), 5);
      for (const auto column : Saved::kColumns) (side->saved.*column).resize(channels, side->memory);
      for (const auto column : BackwardSums::kColumns) (side->sums.*column).resize(channels, side->memory);
      side->kernels.clear(side->saved);
      side->kernels.clear(side->sums);
      side->work.resize_columns(g.channels);
    }
  }

  // A forward whose records come from `copies` ranks that all have this batch; 0: alone.
  void forward(int copies, bool with_residual, bool relu, bool affine) {
    SCOPED_TRACE("forward, " + std::to_string(copies) + " ranks");
    for (Side* side : {&cpu_, &device_}) {
      side->saved.statistics = Saved::Statistics::group_batch;
      side->saved.count = g_.positions() * std::max(copies, 1);
      const kernels::ForwardCall call = forward_call(*side, with_residual, relu, affine);
      if (copies == 0) {
        side->kernels.normalize_alone(call);
      } else {
        const exact::Records records(side->records.data(), exact::sum_format(g_.dtype));
        side->kernels.accumulate(call, records);
        sent_ = side->records;
        for (std::int64_t& word : side->records) word *= copies;
        side->kernels.normalize(call, records);
      }
    }
    if (copies != 0) {
      EXPECT_EQ(cpu_.records, device_.records);
    }
    EXPECT_EQ(kernels::bits(cpu_.y), kernels::bits(device_.y));
    expect_columns(cpu_.saved, device_.saved);
  }
  void evaluate(bool relu) {
    SCOPED_TRACE("evaluation");
    for (Side* side : {&cpu_, &device_}) {
      side->saved.statistics = Saved::Statistics::running;
      side->kernels.normalize_by(forward_call(*side, false, relu, true), side->running());
    }
    EXPECT_EQ(kernels::bits(cpu_.y), kernels::bits(device_.y));
    expect_columns(cpu_.saved, device_.saved);
  }
  void backward(int copies, bool relu, bool dx, bool d_residual, bool in_place) {
    SCOPED_TRACE("backward, " + std::to_string(copies) + " ranks");
    for (Side* side : {&cpu_, &device_}) {
      side->dx = dy_;
      const kernels::BackwardCall call{
          .geometry = g_,
          .tensors = {.dy = in_place ? side->dx.data() : dy_.data(),
                      .x = x_.data(),
                      .y = relu ? side->y.data() : nullptr,
                      .dx = dx ? side->dx.data() : nullptr,
                      .d_residual = d_residual ? side->d_residual.data() : nullptr},
          .saved = side->saved,
          .sums = side->sums,
          .work = side->work};
      if (copies == 0) {
        side->kernels.differentiate_alone(call);
      } else {
        const exact::Records records(side->records.data(), exact::sum_format(g_.dtype));
        side->kernels.accumulate(call, records);
        for (std::int64_t& word : side->records) word *= copies;
        side->kernels.differentiate(call, records);
      }
      side->kernels.affine_gradients(values(side->weight_grad), values(side->bias_grad), side->sums.own_a,
                                     side->sums.own_b, side->saved.invstd, g_.positions() == 0);
    }
    if (copies != 0) {
      EXPECT_EQ(cpu_.records, device_.records);
    }
    EXPECT_EQ(kernels::bits(cpu_.dx), kernels::bits(device_.dx));
    EXPECT_EQ(kernels::bits(cpu_.d_residual), kernels::bits(device_.d_residual));
    EXPECT_EQ(kernels::bits(cpu_.weight_grad), kernels::bits(device_.weight_grad));
    EXPECT_EQ(kernels::bits(cpu_.bias_grad), kernels::bits(device_.bias_grad));
    expect_columns(cpu_.sums, device_.sums);
  }
  void track(std::optional<double> momentum, bool skip_nonfinite) {
    for (Side* side : {&cpu_, &device_})
      side->kernels.track(side->running(), side->saved, momentum, skip_nonfinite);
    EXPECT_EQ(cpu_.batches, device_.batches);
    EXPECT_EQ(kernels::bits(cpu_.running_mean), kernels::bits(device_.running_mean));
    EXPECT_EQ(kernels::bits(cpu_.running_var), kernels::bits(device_.running_var));
  }
  void find_nonfinite() {
    const auto expected = cpu_.kernels.find_nonfinite(cpu_.saved);
    const auto actual = device_.kernels.find_nonfinite(device_.saved);
    ASSERT_EQ(expected.has_value(), actual.has_value());
    if (!expected) return;
    EXPECT_EQ(expected->channel, actual->channel);
    EXPECT_EQ(kernels::bits(expected->mean), kernels::bits(actual->mean));
    EXPECT_EQ(kernels::bits(expected->var), kernels::bits(actual->var));
  }
  void fill(double value) {
    for (Side* side : {&cpu_, &device_}) side->kernels.fill(values(side->weight_grad), g_.channels, value);
    EXPECT_EQ(kernels::bits(cpu_.weight_grad), kernels::bits(device_.weight_grad));
  }

 private:
  struct Side {
    explicit Side(const kernels::DeviceEntry& entry)
        : kernels(entry.kernels(dtype_of<Storage>)), memory(entry.memory), work(entry.memory) {}
    kernels::RunningStatistics running() { return {values(running_mean), values(running_var), &batches}; }

    const kernels::Kernels& kernels;
    const DeviceMemory& memory;
    kernels::Workspace work;
    Saved saved;
    BackwardSums sums;
    std::vector<Storage> y, dx, d_residual;
    std::vector<Parameter> running_mean, running_var, weight_grad, bias_grad;
    std::int64_t batches = 3;
    std::vector<std::int64_t> records;
  };

  static kernels::Values values(std::vector<Parameter>& of) { return {of.data(), dtype_of<Parameter>}; }
  kernels::ForwardCall forward_call(Side& side, bool with_residual, bool relu, bool affine) {
    return {.geometry = g_,
            .tensors = {x_.data(), with_residual ? residual_.data() : nullptr, side.y.data()},
            .weight = affine ? values(weight_) : kernels::Values{},
            .bias = affine ? values(bias_) : kernels::Values{},
            .eps = 1e-5,
            .relu = relu,
            .saved = side.saved,
            .work = side.work};
  }
  template <class Columns>
  static void expect_columns(const Columns& expected, const Columns& actual) {
    for (const auto column : Columns::kColumns) {
      EXPECT_EQ(kernels::bits(std::vector<double>(expected.*column)),
                kernels::bits(std::vector<double>(actual.*column)));
    }
  }

  const kernels::Geometry g_;
  Side cpu_, device_;
  std::vector<Storage> x_, residual_, dy_;
  std::vector<Parameter> weight_, bias_;
  std::vector<std::int64_t> sent_;
};

template <class Storage, class Parameter>
void expect_same_bits() {
  std::mt19937_64 random(3);
  struct Dims {
    std::int64_t samples, channels, spatial;
  };
  constexpr Dims shapes[] = {{3, 5, 7}, {2, 8, 16}, {4, 3, 1}, {1, 70, 24}, {0, 3, 5}, {2, 4, 300}};
  constexpr Order orders[] = {Order::forward, Order::backward, Order::shuffled};
  int k = 0;
  for (const Dims& dims : shapes) {
    for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
      for (const Kind kind : kernels::kKinds) {
        ++k;
        SCOPED_TRACE("case " + std::to_string(k));
        const simt::Scheduled scheduled(orders[k % 3], static_cast<unsigned>(k));
        const kernels::Geometry g{dtype_of<Storage>, layout, dims.samples, dims.channels, dims.spatial};
        Twins<Storage, Parameter> twins(g, kind, random);
        const bool odd = k % 2 != 0;
        if (dims.samples != 0) twins.forward(k % 3, odd, k % 3 != 0, k % 4 != 0);
        twins.find_nonfinite();
        twins.track(odd ? std::optional(0.1) : std::nullopt, k % 3 == 0);
        twins.backward(k % 4, k % 3 != 0, k % 5 != 0, odd, k % 7 == 0);
        twins.evaluate(odd);
        twins.backward(0, odd, true, k % 3 == 0, odd);
        twins.fill(odd ? 1 : 0);
      }
    }
  }
}

TEST(DeviceKernels, Float32) { expect_same_bits<float, float>(); }
TEST(DeviceKernels, Bfloat16) { expect_same_bits<bfloat16, bfloat16>(); }
TEST(DeviceKernels, Float16) { expect_same_bits<float16, float>(); }
TEST(DeviceKernels, Float64) { expect_same_bits<double, float16>(); }
TEST(DeviceKernels, Float32WithDoubleParameters) { expect_same_bits<float, double>(); }

}  // namespace
}  // namespace syncbn::device
