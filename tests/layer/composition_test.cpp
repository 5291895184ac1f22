// SPDX-License-Identifier: Apache-2.0

// The fused forms against the plain layer and loops around it, gradients of the group against those of one
// rank, and Saved used in any order.
//
// control: ReLU's mask left out of backward's sums fails Fused; local gradients made from the group's sums,
// AffineGradients; a backward whose kind the layer's own mode decides, TheForwardsModeCounts; Saved checked
// by its means alone, IncompleteOnesAreRefused.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/data.h"
#include "layer/calls.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

using kernels::bits;
using kernels::narrow;
using kernels::widen;

template <class T>
DeviceVector<T> draw(std::size_t n, std::mt19937_64& random) {
  const std::vector<T> values = kernels::draw<T>(kernels::Kind::ordinary, n, random);
  return {values.begin(), values.end()};
}

template <class T>
struct Step {
  DeviceVector<T> y, dx, d_residual;
  DeviceVector<float> weight_grad, bias_grad;
};

// One forward and backward of a layer that has seen a batch before.
template <class T>
Step<T> step(Activation activation, bool training, const Shape& shape, Layout layout,
             const DeviceVector<T>& x, const DeviceVector<T>* residual, const DeviceVector<T>& dy) {
  SyncBatchNormOptions options;
  options.activation = activation;
  SyncBatchNorm layer(shape.channels(), options);
  std::ranges::copy(DeviceVector<float>{1.5F, -0.75F, 0.1F}, layer.values<float>("weight").begin());
  std::ranges::copy(DeviceVector<float>{0.25F, 0, -0.3F}, layer.values<float>("bias").begin());
  Step<T> made{DeviceVector<T>(x.size()), DeviceVector<T>(x.size()), DeviceVector<T>(x.size()), {}, {}};
  const auto read = [&](const DeviceVector<T>& values) { return view(values, shape, layout); };
  const auto write = [&](DeviceVector<T>& values) { return view(values, shape, layout); };
  layer.forward(read(x), write(made.y));
  layer.set_train(training);
  ForwardTensors tensors{read(x), write(made.y), std::nullopt};
  if (residual != nullptr) tensors.residual = read(*residual);
  layer.forward(tensors);
  layer.backward({read(dy), read(x), read(made.y), write(made.dx), write(made.d_residual)});
  std::ranges::copy(layer.values<float>("weight_grad"), std::back_inserter(made.weight_grad));
  std::ranges::copy(layer.values<float>("bias_grad"), std::back_inserter(made.bias_grad));
  return made;
}

template <class T>
void expect_composition() {
  std::mt19937_64 random(1);
  const Shape shape{4, 3, 5, 2};
  const auto n = static_cast<std::size_t>(shape.elements());
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    for (const bool training : {true, false}) {
      for (const bool add : {false, true}) {
        // 16-bit results are rounded once, after the residual: no composition of rounded steps has those
        // bits.
        if (add && sizeof(T) == 2) continue;
        for (const bool relu : {false, true}) {
          SCOPED_TRACE(std::string(name_of(dtype_of<T>)) + (training ? ", training" : ", evaluation") +
                       (add ? ", residual" : "") + (relu ? ", relu" : ""));
          const auto x = draw<T>(n, random), residual = draw<T>(n, random), dy = draw<T>(n, random);
          const Step<T> fused = step<T>(relu ? Activation::relu : Activation::none, training, shape, layout,
                                        x, add ? &residual : nullptr, dy);
          DeviceVector<T> y = step<T>(Activation::none, training, shape, layout, x, nullptr, dy).y;
          DeviceVector<T> masked = dy;
          bool cut = false;
          for (std::size_t i = 0; i < n; ++i) {
            if (add) y[i] = narrow<T>(widen(y[i]) + widen(residual[i]));
            if (!relu || widen(y[i]) > 0) continue;
            y[i] = masked[i] = T{};
            cut = true;
          }
          EXPECT_EQ(cut, relu);
          const Step<T> plain = step<T>(Activation::none, training, shape, layout, x, nullptr, masked);
          EXPECT_EQ(bits(y), bits(fused.y));
          EXPECT_EQ(bits(plain.dx), bits(fused.dx));
          EXPECT_EQ(bits(masked), bits(fused.d_residual));
          EXPECT_EQ(plain.weight_grad, fused.weight_grad);
          EXPECT_EQ(plain.bias_grad, fused.bias_grad);
        }
      }
    }
  }
}

TEST(Fused, Float16) { expect_composition<float16>(); }
TEST(Fused, BFloat16) { expect_composition<bfloat16>(); }
TEST(Fused, Float32) { expect_composition<float>(); }
TEST(Fused, Float64) { expect_composition<double>(); }

TEST(Fused, NanPassesRelu) {
  SyncBatchNormOptions options;
  options.activation = Activation::relu;
  SyncBatchNorm layer(1, options);
  layer.set_train(false);
  Call call({3, 1}, {NAN, -1, 1});
  call.forward(layer);
  EXPECT_TRUE(std::isnan(call.y[0]));
  EXPECT_EQ(std::bit_cast<std::uint32_t>(call.y[1]), 0U);
  call.backward(layer);
  EXPECT_GT(call.dx[0], 0);
  EXPECT_EQ(call.dx[1], 0);
}

// Whole numbers, so that each rank's sums are exact in double.
Call share_of(int rank) {
  if (rank == 1) return Call({0, 1}, {});
  Call call({2, 1, 2}, {1.0F, 5, static_cast<float>(rank), -3});
  call.dy = {1, 2, -4, static_cast<float>(rank)};
  return call;
}

TEST(AffineGradients, LocalOnesAreTheRanksOwnAndGroupOnesTheGroups) {
  Call whole({4, 1, 2}, {1, 5, 0, -3, 1, 5, 2, -3});
  whole.dy = {1, 2, -4, 0, 1, 2, -4, 2};
  SyncBatchNorm alone(1);
  whole.forward(alone);
  whole.backward(alone);
  for (const auto kind : {syncbn::AffineGradients::local, syncbn::AffineGradients::group}) {
    EXPECT_EQ(outcomes(3,
                       [&](int rank) {
                         SyncBatchNormOptions options;
                         options.affine_gradients = kind;
                         SyncBatchNorm layer(1, options);
                         Call call = share_of(rank);
                         call.forward(layer);
                         call.backward(layer);
                         const float weight = layer.values<float>("weight_grad")[0];
                         const float bias = layer.values<float>("bias_grad")[0];
                         if (kind == syncbn::AffineGradients::group) {
                           EXPECT_EQ(alone.values<float>("weight_grad")[0], weight);
                           EXPECT_EQ(alone.values<float>("bias_grad")[0], bias);
                           return;
                         }
                         double a = 0, b = 0;
                         for (std::size_t i = 0; i < call.x.size(); ++i) {
                           a += static_cast<double>(call.dy[i]);
                           b += static_cast<double>(call.dy[i]) * static_cast<double>(call.x[i]);
                         }
                         const double d = std::fma(-layer.saved().mean[0], a, b);
                         EXPECT_EQ(static_cast<float>(d * layer.saved().invstd[0]), weight);
                         EXPECT_EQ(static_cast<float>(a), bias);
                       }),
              all(3, "ok"));
  }
}

// A recomputed forward gives the same Saved and y; what it did to the running statistics can be put back.
TEST(SavedValues, Recomputation) {
  EXPECT_EQ(outcomes(2,
                     [](int rank) {
                       SyncBatchNorm layer(1);
                       Call call({2, 1}, {1.0F, static_cast<float>(rank) * 3});
                       Saved first, again;
                       layer.forward(call.forward_tensors(), first);
                       const DeviceVector<float> y = call.y;
                       Call other({1, 1}, {9});
                       layer.forward(other.forward_tensors(), again);
                       layer.forward(call.forward_tensors(), again);
                       EXPECT_EQ(y, call.y);
                       EXPECT_EQ(first.mean, again.mean);
                       EXPECT_EQ(first.invstd, again.invstd);
                       layer.backward(first, call.backward_tensors());
                       const DeviceVector<float> dx = call.dx;
                       layer.backward(again, call.backward_tensors());
                       EXPECT_EQ(dx, call.dx);
                       layer.backward(first, call.backward_tensors());  // as often as one likes
                       EXPECT_EQ(dx, call.dx);
                       EXPECT_EQ(layer.saved().statistics, Saved::Statistics::none);
                       EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 3);
                     }),
            all(2, "ok"));
}

// The mode that counts in backward is the forward's, whatever the layer's is by then.
TEST(SavedValues, TheForwardsModeCounts) {
  EXPECT_EQ(outcomes(2,
                     [](int rank) {
                       SyncBatchNorm layer(1);
                       Call call({2, 1}, {1.0F, static_cast<float>(rank) * 3});
                       call.forward(layer);
                       call.backward(layer);
                       const DeviceVector<float> dx = call.dx;
                       layer.set_train(false);
                       call.backward(layer);  // joins the group's sum
                       EXPECT_EQ(dx, call.dx);
                     }),
            all(2, "ok"));
}

TEST(SavedValues, IncompleteOnesAreRefused) {
  SyncBatchNorm layer(2);
  Call call({2, 2}, {1, 2, 3, 5});
  Saved saved;
  layer.forward(call.forward_tensors(), saved);
  for (auto values : {&Saved::mean, &Saved::var, &Saved::invstd, &Saved::scale}) {
    Saved cut = saved;
    (cut.*values).resize(1, kHostMemory);
    expect_error<InvalidArgument>([&] { layer.backward(cut, call.backward_tensors()); },
                                  {"saved", "1 channels", "num_features ... 2"});
  }
}

TEST(RunningStatistics, WithoutMomentumTheyAreTheAverage) {
  SyncBatchNormOptions options;
  options.momentum.reset();
  SyncBatchNorm layer(1, options);
  Call({2, 1}, {1, 3}).forward(layer);
  Call({2, 1}, {4, 8}).forward(layer);
  EXPECT_EQ(4, layer.values<float>("running_mean")[0]);
  EXPECT_EQ(5, layer.values<float>("running_var")[0]);  // of the unbiased 2 and 8
  layer.reset_running_stats();
  Call({2, 1}, {4, 8}).forward(layer);
  EXPECT_EQ(6, layer.values<float>("running_mean")[0]);
  EXPECT_EQ(8, layer.values<float>("running_var")[0]);
}

TEST(RunningStatistics, WithoutThemTrainingStillUsesTheGroup) {
  EXPECT_EQ(outcomes(2,
                     [](int rank) {
                       SyncBatchNormOptions options;
                       options.track_running_stats = false;
                       SyncBatchNorm layer(1, options);
                       Call call({1, 1}, {rank == 0 ? 1.0F : 3.0F});
                       call.forward(layer);
                       EXPECT_EQ(2, layer.saved().mean[0]);
                       layer.set_train(false);  // this rank's batch alone
                       call.forward(layer);
                       EXPECT_EQ(static_cast<double>(call.x[0]), layer.saved().mean[0]);
                       EXPECT_EQ(0, call.y[0]);
                     }),
            all(2, "ok"));
}

}  // namespace
}  // namespace syncbn::testing
