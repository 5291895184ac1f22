// SPDX-License-Identifier: Apache-2.0

// What the layer promises beside its numbers: defaults, empty and single-element batches, the non-finite
// policies, state that stays after a failed call, Saved, and what never communicates.
//
// control: with the counter moved on before the checks TotalCountOne, WholeGroupEmpty and ErrorOnEveryRank…
// fail; with Saved written before them the first and the last; with an empty rank's gradients computed like
// any other, EmptyRank; with nonfinite = error or skip_update ignored, the tests of that name.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/plan.h"
#include "layer/calls.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(NewLayer, Defaults) {
  for (const DType type : {DType::float16, DType::bfloat16, DType::float32, DType::float64}) {
    SyncBatchNormOptions options;
    options.dtype = type;
    SyncBatchNorm layer(3, options);
    EXPECT_TRUE(layer.training());
    EXPECT_EQ(layer.num_features(), 3);
    EXPECT_EQ(layer.options().eps, 1e-5);
    EXPECT_EQ(layer.options().momentum, 0.1);
    EXPECT_EQ(layer.saved().statistics, Saved::Statistics::none);
    std::vector<std::string> names;
    for (const StateEntry& entry : layer.state()) {
      names.push_back(entry.name);
      const bool counter = entry.name == "num_batches_tracked";
      EXPECT_EQ(entry.dtype, counter ? std::nullopt : std::optional(type)) << entry.name;
      EXPECT_EQ(entry.size, counter ? 1u : 3u) << entry.name;
    }
    EXPECT_EQ(names, (std::vector<std::string>{"weight", "bias", "running_mean", "running_var",
                                               "num_batches_tracked"}));
  }
  SyncBatchNorm layer(2);
  EXPECT_TRUE(std::ranges::equal(layer.values<float>("weight"), DeviceVector<float>{1, 1}));
  EXPECT_TRUE(std::ranges::equal(layer.values<float>("bias"), DeviceVector<float>{0, 0}));
  EXPECT_TRUE(std::ranges::equal(layer.values<float>("running_mean"), DeviceVector<float>{0, 0}));
  EXPECT_TRUE(std::ranges::equal(layer.values<float>("running_var"), DeviceVector<float>{1, 1}));
  EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 0);
}

TEST(NewLayer, AbsentEntries) {
  SyncBatchNormOptions options;
  options.affine = false;
  options.track_running_stats = false;
  SyncBatchNorm layer(2, options);
  EXPECT_TRUE(layer.state().empty());
  for (const char* name : {"weight", "bias", "weight_grad", "bias_grad", "running_mean", "running_var"}) {
    EXPECT_THROW(layer.values<float>(name), InvalidArgument) << name;
  }
  layer.reset_parameters();  // nothing to reset, no error
}

TEST(NewLayer, TrainAndEval) {
  SyncBatchNorm layer(1);
  layer.set_train(false);
  EXPECT_FALSE(layer.training());
  layer.set_train();
  EXPECT_TRUE(layer.training());
}

TEST(State, ViewsAreLive) {
  SyncBatchNorm layer(2);
  layer.values<float>("weight")[1] = 3;
  EXPECT_EQ(static_cast<float*>(layer.state()[0].data)[1], 3);
  SyncBatchNorm moved = std::move(layer);
  EXPECT_EQ(moved.values<float>("weight")[1], 3);
}

TEST(State, Resets) {
  SyncBatchNorm layer(2);
  Call call({3, 2}, {1, 2, 3, 4, 5, 9});
  call.forward(layer);
  layer.values<float>("weight")[0] = 7;
  layer.values<float>("bias")[0] = 7;
  layer.reset_running_stats();
  EXPECT_EQ(layer.values<float>("running_mean")[0], 0);
  EXPECT_EQ(layer.values<float>("running_var")[1], 1);
  EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 0);
  EXPECT_EQ(layer.values<float>("weight")[0], 7);
  call.forward(layer);
  layer.reset_parameters();
  EXPECT_EQ(layer.values<float>("weight")[0], 1);
  EXPECT_EQ(layer.values<float>("bias")[0], 0);
  EXPECT_EQ(layer.values<float>("running_mean")[0], 0);
  EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 0);
}

TEST(Batches, EmptyRank) {
  for (const AffineGradients gradients : {AffineGradients::local, AffineGradients::group}) {
    for (const float odd : {3.0F, kNan, kInf}) {
      std::vector<Snapshot> seen(2);
      EXPECT_EQ(outcomes(2,
                         [&](int rank) {
                           SyncBatchNormOptions options;
                           options.affine_gradients = gradients;
                           SyncBatchNorm layer(1, options);
                           Call call = rank == 0 ? Call({2, 1}, {1, odd}) : Call({0, 1}, {});
                           call.forward(layer);
                           call.backward(layer);
                           seen[static_cast<std::size_t>(rank)] = snapshot(layer);
                         }),
                all(2, "ok"));
      EXPECT_EQ(seen[0].state, seen[1].state);
      const std::vector<std::uint64_t> zeros(2, 0);
      EXPECT_EQ(seen[1].gradients == zeros, gradients == AffineGradients::local) << odd;
      EXPECT_EQ(seen[0].gradients == seen[1].gradients, gradients == AffineGradients::group) << odd;
    }
  }
}

TEST(Batches, WholeGroupEmpty) {
  for (const int size : {1, 3}) {
    EXPECT_EQ(outcomes(size,
                       [&](int) {
                         SyncBatchNorm layer(2);
                         const Snapshot fresh = snapshot(layer);
                         Call empty({0, 2, 4}, {});
                         empty.forward(layer);
                         EXPECT_EQ(layer.saved().count, 0);
                         empty.backward(layer);
                         EXPECT_EQ(snapshot(layer).state, fresh.state);
                         EXPECT_EQ(snapshot(layer).gradients, std::vector<std::uint64_t>(4, 0));
                         Call full({2, 2}, {1, 2, 3, 4});
                         full.forward(layer);
                         EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 1);
                       }),
              all(size, "ok"));
  }
}

// On every rank, changing nothing; the group is intact.
TEST(Batches, TotalCountOne) {
  for (const int size : {1, 3}) {
    EXPECT_EQ(outcomes(size,
                       [&](int rank) {
                         SyncBatchNorm layer(1);
                         Call two({2, 1}, {1, 2});
                         two.forward(layer);
                         const Snapshot before = snapshot(layer);
                         Call one = rank == size - 1 ? Call({1, 1}, {5}) : Call({0, 1}, {});
                         expect_error<InvalidArgument>([&] { one.forward(layer); }, {"x", "1 element ... 2"});
                         EXPECT_EQ(snapshot(layer), before);
                         two.backward(layer);  // the Saved of the good forward is still there
                         two.forward(layer);
                         EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 2);
                       }),
              all(size, "ok"));
  }
}

TEST(Batches, OneElementInEvaluationWithoutRunningStatistics) {
  SyncBatchNormOptions options;
  options.track_running_stats = false;
  SyncBatchNorm layer(1, options);
  layer.set_train(false);
  layer.values<float>("bias")[0] = 0.25F;
  Call one({1, 1}, {1e6F});
  one.forward(layer);
  EXPECT_EQ(layer.saved().var[0], 0);
  EXPECT_EQ(layer.saved().mean[0], 1e6);
  EXPECT_EQ(one.y[0], 0.25F);
  one.backward(layer);
  EXPECT_EQ(one.dx[0], 0);
  Call none({0, 1}, {});
  none.forward(layer);
  none.backward(layer);
  EXPECT_EQ(layer.values<float>("bias_grad")[0], 0);
}

// Channel 0 is odd on rank 1 only, channel 1 is not.
Call partly_odd(int rank, float odd) { return Call({2, 2}, {1, 4, rank == 1 ? odd : 3.0F, 6}); }

TEST(NonFinite, Propagate) {
  for (const float odd : {kNan, kInf, -kInf}) {
    EXPECT_EQ(outcomes(2,
                       [&](int rank) {
                         SyncBatchNorm layer(2);
                         partly_odd(rank, odd).forward(layer);
                         const float mean = layer.values<float>("running_mean")[0];
                         EXPECT_TRUE(std::isnan(odd) ? std::isnan(mean) : mean == odd) << mean;
                         EXPECT_TRUE(std::isnan(layer.values<float>("running_var")[0]));
                         EXPECT_EQ(layer.values<float>("running_mean")[1], 0.5F);
                         EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 1);
                       }),
              all(2, "ok"));
  }
}

TEST(NonFinite, SkipUpdate) {
  for (const float odd : {kNan, kInf, -kInf}) {
    EXPECT_EQ(outcomes(2,
                       [&](int rank) {
                         SyncBatchNormOptions options;
                         options.nonfinite = Nonfinite::skip_update;
                         SyncBatchNorm layer(2, options);
                         partly_odd(rank, odd).forward(layer);
                         EXPECT_EQ(layer.values<float>("running_mean")[0], 0);
                         EXPECT_EQ(layer.values<float>("running_var")[0], 1);
                         EXPECT_EQ(layer.values<float>("running_mean")[1], 0.5F);
                         EXPECT_NE(layer.values<float>("running_var")[1], 1);
                         EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 1);
                       }),
              all(2, "ok"));
  }
}

TEST(NonFinite, ErrorOnEveryRankAndTheGroupIsIntact) {
  for (const float odd : {kNan, kInf, -kInf}) {
    EXPECT_EQ(outcomes(2,
                       [&](int rank) {
                         SyncBatchNormOptions options;
                         options.nonfinite = Nonfinite::error;
                         SyncBatchNorm layer(2, options);
                         const Snapshot fresh = snapshot(layer);
                         expect_error<InvalidArgument>([&] { partly_odd(rank, odd).forward(layer); },
                                                       {"x", "channel 0", "nonfinite"});
                         EXPECT_EQ(snapshot(layer), fresh);
                         partly_odd(rank, 7).forward(layer);
                         EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 1);
                       }),
              all(2, "ok"));
  }
}

// It looks at forward statistics only.
TEST(NonFinite, GradientsAreNoMatter) {
  SyncBatchNormOptions options;
  options.nonfinite = Nonfinite::error;
  SyncBatchNorm layer(1, options);
  Call call({2, 1}, {1, 2});
  call.forward(layer);
  call.dy = {kInf, 1};
  call.backward(layer);
  EXPECT_EQ(layer.values<float>("bias_grad")[0], kInf);
}

// Rank 0 alone evaluates, forward and backward, and its gradients are its own whatever affine_gradients says.
TEST(Evaluation, NeverCommunicates) {
  for (const bool track : {true, false}) {
    EXPECT_EQ(outcomes(2,
                       [&](int rank) {
                         SyncBatchNormOptions options;
                         options.track_running_stats = track;
                         options.affine_gradients = AffineGradients::group;
                         SyncBatchNorm layer(1, options);
                         layer.set_train(false);
                         if (rank != 0) return;
                         Call call({2, 1}, {1, 2});
                         call.dy = {0.5F, 0.25F};
                         call.forward(layer);
                         call.backward(layer);
                         EXPECT_EQ(layer.values<float>("bias_grad")[0], 0.75F);
                       }),
              all(2, "ok"));
  }
}

TEST(Evaluation, ChangesNoState) {
  SyncBatchNorm layer(1);
  layer.set_train(false);
  const Snapshot fresh = snapshot(layer);
  Call({3, 1}, {1, 2, 9}).forward(layer);
  EXPECT_EQ(snapshot(layer).state, fresh.state);
}

// Backward joins the sum of the group whether or not this rank wants dx, or has any elements.
TEST(Backward, JoinsWithoutDx) {
  std::vector<DeviceVector<float>> dx(2);
  for (const bool wanted : {true, false}) {
    EXPECT_EQ(outcomes(2,
                       [&](int rank) {
                         SyncBatchNorm layer(1);
                         Call call({2, 1}, {1.0F, static_cast<float>(rank) + 2});
                         call.forward(layer);
                         BackwardTensors tensors = call.backward_tensors();
                         if (rank == 1 && !wanted) tensors.dx.reset();
                         layer.backward(tensors);
                         if (rank == 0) dx[wanted ? 1 : 0] = call.dx;
                       }),
              all(2, "ok"));
  }
  EXPECT_EQ(dx[0], dx[1]);
}

TEST(Backward, BeforeForward) {
  for (const bool training : {true, false}) {
    SyncBatchNorm layer(1);
    layer.set_train(training);
    Call call({2, 1}, {1, 2});
    expect_error<InvalidArgument>([&] { call.backward(layer); }, {"backward", "no forward"});
  }
}

TEST(Backward, InPlace) {
  SyncBatchNorm layer(2);
  Call call({3, 2}, {1, 2, 3, 5, 8, 13});
  call.dy = {1, -2, 3, -4, 5, 6};
  call.forward(layer);
  call.backward(layer);
  DeviceVector<float> both = call.dy;
  const Shape shape{3, 2};
  layer.backward(view(std::as_const(both), shape), view(std::as_const(call.x), shape), view(both, shape));
  EXPECT_EQ(both, call.dx);
}

// A layer is called twice before backward, as in a recomputation or a siamese network.
TEST(SavedValues, TwoForwardsBeforeBackward) {
  SyncBatchNorm layer(1);
  Call first({3, 1}, {1, 2, 4});
  Call second({4, 1}, {-3, 0, 5, 8});
  Saved saved_first, saved_second;
  layer.forward(first.forward_tensors(), saved_first);
  layer.forward(second.forward_tensors(), saved_second);
  EXPECT_EQ(layer.saved().statistics, Saved::Statistics::none);
  EXPECT_EQ(saved_first.count, 3);
  EXPECT_EQ(saved_second.count, 4);
  layer.backward(saved_first, first.backward_tensors());
  layer.backward(saved_second, second.backward_tensors());
  for (Call* call : {&first, &second}) {
    SyncBatchNorm alone(1);
    Call again({call->shape.samples(), 1}, call->x);
    again.forward(alone);
    again.backward(alone);
    EXPECT_EQ(again.dx, call->dx);
  }
}

TEST(SavedValues, OfEachKind) {
  Saved saved;
  Call call({2, 1}, {1, 2});
  SyncBatchNorm layer(1);
  layer.forward(call.forward_tensors(), saved);
  EXPECT_EQ(saved.statistics, Saved::Statistics::group_batch);
  layer.set_train(false);
  layer.forward(call.forward_tensors(), saved);
  EXPECT_EQ(saved.statistics, Saved::Statistics::running);
  SyncBatchNormOptions options;
  options.track_running_stats = false;
  SyncBatchNorm without(1, options);
  without.set_train(false);
  without.forward(call.forward_tensors(), saved);
  EXPECT_EQ(saved.statistics, Saved::Statistics::local_batch);
}

// The group is resolved once, at construction; then any thread may call.
TEST(Threads, LayerIsCalledFromAnotherThread) {
  EXPECT_EQ(outcomes(2,
                     [](int rank) {
                       SyncBatchNorm layer(1);
                       std::string outcome;
                       std::thread([&] {
                         outcome = testing::outcome([&] {
                           Call({1, 1}, {static_cast<float>(rank)}).forward(layer);
                         });
                       }).join();
                       EXPECT_EQ(outcome, "ok");
                       EXPECT_EQ(layer.saved().mean[0], 0.5);
                     }),
            all(2, "ok"));
}

// A host program's pool that fails at its k-th use, for every k until a call needs no more of them.
//
// control: with the running statistics moved on in parallel_for again, this fails.
void expect_no_trace_of_failures(bool fused) {
  constexpr std::int64_t kChannels = 200;  // more than one task of channels
  SyncBatchNorm layer(kChannels);
  Call call({8, kChannels, 50}, DeviceVector<float>(8 * kChannels * 50));
  for (std::size_t i = 0; i < call.x.size(); ++i) call.x[i] = static_cast<float>(i * 7 % 101);
  set_num_threads(2);
  int left = 0;
  set_parallel_for([&left](int count, const std::function<void(int)>& task) {
    for (int i = 0; i < count; ++i) {
      if (i == 1 && left-- == 0) throw std::runtime_error("the pool is gone");  // one task is done by then
      task(i);
    }
  });
  kernels::forced_paths().blocked = fused;
  const auto fails_without_trace = [&](const std::function<void()>& step) {
    int failures = 0;
    for (;; ++failures) {
      const Snapshot before = snapshot(layer);
      left = failures;
      try {
        step();
        break;
      } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "the pool is gone");
      }
      EXPECT_EQ(snapshot(layer), before) << "use " << failures;
    }
    EXPECT_GE(failures, fused ? 1 : 3);
  };
  fails_without_trace([&] { call.forward(layer); });
  EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 1);
  fails_without_trace([&] { call.backward(layer); });
  kernels::forced_paths().blocked.reset();
  set_parallel_for({});
  set_num_threads(0);
}
TEST(Threads, PoolThatThrowsChangesNoState) {
  expect_no_trace_of_failures(false);
  expect_no_trace_of_failures(true);
}

}  // namespace
}  // namespace syncbn::testing
