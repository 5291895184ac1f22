// SPDX-License-Identifier: Apache-2.0

// A layer belongs to the rank of run_ranks that made it: a training call of it on the thread of another rank
// would send that rank's numbers in this rank's name. Each refusal is beside a call that differs only in the
// thread and goes well, so that the refusal is shown to be of the thread.
#include <gtest/gtest.h>

#include <barrier>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "layer/calls.h"
#include "lone_communicator.h"
#include "syncbn/framework.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

Call batch_of(float first) { return Call({2, 2}, {first, first + 1, first + 3, first - 4}); }

void expect_other_rank(const std::string& outcome, const std::string& belongs_to, const std::string& is) {
  expect_error<GroupError>(outcome, {"group 'world'", "layer 'bn'", "belongs to rank " + belongs_to,
                                     "calling thread is rank " + is, "run_ranks"});
}

SyncBatchNormOptions named() {
  SyncBatchNormOptions options;
  options.name = "bn";
  return options;
}

// Runs `of_rank_1` on rank 1 with rank 0's layer, whose forward has been made.
void on_rank_1(const std::function<void(SyncBatchNorm& layer, Call& call)>& of_rank_1) {
  std::optional<SyncBatchNorm> layers[2];
  Call calls[] = {batch_of(0), batch_of(5)};
  std::barrier together(2);
  run_ranks(2, [&](int rank) {
    calls[rank].forward(layers[rank].emplace(2, named()));
    together.arrive_and_wait();
    if (rank == 1) of_rank_1(*layers[0], calls[0]);
    together.arrive_and_wait();
    calls[rank].backward(*layers[rank]);  // the group is whole: the refusal has sent nothing
  });
}

TEST(LayerOfAnotherRank, TrainingCallsAreRefused) {
  on_rank_1([](SyncBatchNorm& layer, Call& call) {
    const Snapshot before = snapshot(layer);
    Saved saved = layer.saved();
    JointCall joint;
    FrameworkHooks hooks(layer);
    const std::vector<std::function<void()>> collective = {
        [&] { call.forward(layer); },
        [&] { call.backward(layer); },
        [&] { hooks.normalize(call.forward_tensors(), saved); },
        [&] { hooks.fail(Direction::forward, "a reason"); },
        [&] { joint.forward(layer, call.forward_tensors(), saved); },
        [&] { joint.backward(layer, layer.saved(), call.backward_tensors()); },
    };
    for (std::size_t i = 0; i < collective.size(); ++i) {
      SCOPED_TRACE(i);
      expect_other_rank(outcome(collective[i]), "0", "1");
      EXPECT_EQ(snapshot(layer), before);
    }
  });
}

TEST(LayerOfAnotherRank, EvaluationIsNot) {
  on_rank_1([](SyncBatchNorm& layer, Call& call) {
    layer.set_train(false);
    Call evaluation = call;
    Saved saved;
    EXPECT_EQ("ok", outcome([&] { layer.forward(evaluation.forward_tensors(), saved); }));
    layer.set_train();
  });
}

// The body's own thread, and a thread that the body has started.
TEST(LayerOfAnotherRank, ThreadsOfTheRankAreNot) {
  run_ranks(2, [](int rank) {
    SyncBatchNorm layer(2, named());
    Call call = batch_of(static_cast<float>(rank));
    std::thread([&] {
      EXPECT_EQ("ok", outcome([&] {
                  call.forward(layer);
                  call.backward(layer);
                }));
    }).join();
    EXPECT_EQ("ok", outcome([&] { call.forward(layer); }));
  });
}

// A layer that was made before run_ranks belongs to the first rank that trains with it.
TEST(LayerOfAnotherRank, MadeBeforeRunRanks) {
  SyncBatchNorm layer(2, named());
  std::barrier together(2);
  run_ranks(2, [&](int rank) {
    Call call = batch_of(static_cast<float>(rank));
    if (rank == 0) {
      together.arrive_and_wait();
      call.forward(layer);
      together.arrive_and_wait();
    } else {
      SyncBatchNorm own(2, named());
      together.arrive_and_wait();
      call.forward(own);
      together.arrive_and_wait();
      expect_other_rank(outcome([&] { call.forward(layer); }), "0", "1");
    }
  });
}

// The same rank of another run_ranks has another world.
TEST(LayerOfAnotherRank, OfAnotherRun) {
  std::optional<SyncBatchNorm> of_outer;
  Call call = batch_of(0);
  run_ranks(1, [&](int) {
    call.forward(of_outer.emplace(2, named()));
    run_ranks(1, [&](int) {
      const std::string refused = outcome([&] { call.forward(*of_outer); });
      expect_other_rank(refused, "0", "0 of another run_ranks");
    });
    EXPECT_EQ("ok", outcome([&] { call.forward(*of_outer); }));
  });
}

// A group on a custom engine says by itself which rank it is: any thread may call.
TEST(LayerOfAnotherRank, CustomEngine) {
  SyncBatchNormOptions options;
  options.process_group = make_group("custom", std::make_unique<LoneCommunicator>());
  SyncBatchNorm layer(2, options);
  Call call = batch_of(0);
  run_ranks(1, [&](int) { EXPECT_EQ("ok", outcome([&] { call.forward(layer); })); });
}

}  // namespace
}  // namespace syncbn::testing
