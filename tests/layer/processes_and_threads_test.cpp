// SPDX-License-Identifier: Apache-2.0

// Layers in the fork of a process that has used them, and from several threads at once.
//
// control: with parallel_for's look at threads_lost_in_fork() removed, the child of AForkOfOneRankTrains
// waits for OpenMP's threads; without inherited() in Group::run, AForkOfAGroup waits for its peer until the
// deadline.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "layer/calls.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

// Large enough for several threads to have work.
struct Big {
  DeviceVector<float> x = [] {
    DeviceVector<float> values(16 * 8 * 1024);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(i * 2654435761u % 1000) / 7.0F;
    return values;
  }();
  DeviceVector<float> y = DeviceVector<float>(x.size()), dx = y;
  Shape shape{16, 8, 32, 32};

  void step(SyncBatchNorm& layer) {
    layer.forward(view(std::as_const(x), shape), view(y, shape));
    layer.backward(view(std::as_const(y), shape), view(std::as_const(x), shape), view(dx, shape));
  }
};

// 0 where `body` is true in a child, which a signal ends if it hangs.
int in_a_fork(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(body() ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

TEST(Forks, AForkOfOneRankTrains) {
  set_num_threads(3);
  SyncBatchNorm layer(8), same(8);
  Big parent, child;
  parent.step(layer);
  child.step(same);
  EXPECT_EQ(in_a_fork([&] {
              child.step(same);
              SyncBatchNorm made_there(8);
              child.step(made_there);
              child.step(same);
              parent.step(layer);
              parent.step(layer);
              return snapshot(same) == snapshot(layer) && child.y == parent.y && child.dx == parent.dx;
            }),
            0);
  parent.step(layer);  // the parent goes on
  set_num_threads(0);
}

TEST(Forks, AForkOfAGroupEvaluatesAndIsRefused) {
  EXPECT_EQ(outcomes(2,
                     [](int rank) {
                       SyncBatchNorm layer(8);
                       Big batch;
                       batch.step(layer);
                       if (rank == 0) {
                         EXPECT_EQ(in_a_fork([&] {
                                     const std::string refusal = outcome([&] { batch.step(layer); });
                                     layer.set_train(false);
                                     return refusal.starts_with("GroupError: ") &&
                                            tells(refusal, "'world'") && tells(refusal, "fork") &&
                                            outcome([&] { batch.step(layer); }) == "ok";
                                   }),
                                   0);
                       }
                       batch.step(layer);  // the parent's group is whole
                     }),
            all(2, "ok"));
}

// Each thread has a layer; they share the process's world of one and parallel_for.
TEST(Threads, ManyLayersAtOnce) {
  SyncBatchNorm alone(8);
  Big expected;
  for (int i = 0; i < 5; ++i) expected.step(alone);
  constexpr int kThreads = 4;
  std::vector<SyncBatchNorm> layers;
  std::vector<Big> batches(kThreads);
  for (int i = 0; i < kThreads; ++i) layers.emplace_back(8);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      set_num_threads(2);
      for (int i = 0; i < 5; ++i) batches[t].step(layers[t]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t t = 0; t < kThreads; ++t) {
    EXPECT_EQ(snapshot(layers[t]), snapshot(alone));
    EXPECT_EQ(batches[t].dx, expected.dx);
  }
}

// Two groups of the same ranks, forward and backward of a layer of each on a thread of its own.
TEST(Threads, GroupsAtOnce) {
  const auto run = [](bool threaded) {
    std::vector<DeviceVector<float>> results(2);
    outcomes(2, [&](int rank) {
      SyncBatchNormOptions first, second;
      create_group("forth", {0, 1});
      create_group("back", {1, 0});
      first.process_group = "forth";
      second.process_group = "back";
      SyncBatchNorm one(8, first), other(8, second);
      Big x, z;
      const auto train = [&](SyncBatchNorm& layer, Big& batch) {
        for (int i = 0; i < 10; ++i) batch.step(layer);
      };
      if (threaded) {
        std::thread forth([&] { train(one, x); }), back([&] { train(other, z); });
        forth.join();
        back.join();
      } else {
        train(one, x);
        train(other, z);
      }
      auto& result = results[static_cast<std::size_t>(rank)];
      result = x.dx;
      result.insert(result.end(), z.dx.begin(), z.dx.end());
    });
    return results;
  };
  EXPECT_EQ(run(true), run(false));
}

}  // namespace
}  // namespace syncbn::testing
