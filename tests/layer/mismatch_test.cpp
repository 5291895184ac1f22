// SPDX-License-Identifier: Apache-2.0

// Ranks that make different calls, or fail before their call: a named error on every rank, nothing changed,
// and the group broken for the calls after it.
//
// control: with eps or activation left out of the text that the ranks compare, its Mismatch case fails; with
// the counter moved on before the group's sum, LocalFailure and all of Mismatch; without the overlap check,
// its LocalFailure case.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "layer/calls.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

struct Setting {
  std::string name;
  std::function<void(SyncBatchNormOptions&)> differ;  // of rank 1
  std::vector<std::string> facts;                     // what rank 1 and what the others brought
};
std::ostream& operator<<(std::ostream& out, const Setting& setting) { return out << setting.name; }

const std::vector<Setting> kSettings = {
    {"eps", [](auto& o) { o.eps = 1e-3; }, {"eps=0.001", "eps=1e-05"}},
    {"momentum", [](auto& o) { o.momentum = 0.25; }, {"momentum=0.25", "momentum=0.1"}},
    {"momentum_none", [](auto& o) { o.momentum.reset(); }, {"momentum=none", "momentum=0.1"}},
    {"parameters", [](auto& o) { o.dtype = DType::float64; }, {"parameters=float64", "parameters=float32"}},
    {"affine", [](auto& o) { o.affine = false; }, {"affine=false", "affine=true"}},
    {"track",
     [](auto& o) { o.track_running_stats = false; },
     {"track_running_stats=false", "track_running_stats=true"}},
    {"gradients",
     [](auto& o) { o.affine_gradients = AffineGradients::group; },
     {"affine_gradients=group", "affine_gradients=local"}},
    {"nonfinite",
     [](auto& o) { o.nonfinite = Nonfinite::error; },
     {"nonfinite=error", "nonfinite=propagate"}},
    {"activation", [](auto& o) { o.activation = Activation::relu; }, {"activation=relu", "activation=none"}},
    {"name", [](auto& o) { o.name = "other"; }, {"'other'", "unnamed layer"}},
};

// `told`: what rank 1 brought, what ranks 0 and 2 brought, and more.
void expect_told(const std::string& outcome, const std::vector<std::string>& told) {
  std::vector<std::string> facts(told.begin() + 2, told.end());
  facts.push_back("'world'");
  facts.push_back("call 2");
  facts.push_back("rank 1 ... " + told[0] + " ... ranks 0, 2 ... " + told[1]);
  expect_error<MismatchError>(outcome, facts);
}

// Three ranks, one good call, then `call`, in which rank 1 differs; every rank's message tells who brought
// what.
void expect_mismatch(const SyncBatchNormOptions& of_rank_1,
                     const std::function<void(SyncBatchNorm& good, SyncBatchNorm& layer, int rank)>& call,
                     const std::vector<std::string>& told) {
  EXPECT_EQ(outcomes(3,
                     [&](int rank) {
                       SyncBatchNorm good(2);
                       SyncBatchNorm layer(2, rank == 1 ? of_rank_1 : SyncBatchNormOptions());
                       Call batch({2, 2}, {1, 2, 3, 5});
                       batch.forward(good);
                       const Snapshot before = snapshot(good);
                       const std::vector<StateEntry> entries = layer.state();
                       expect_told(outcome([&] { call(good, layer, rank); }), told);
                       EXPECT_EQ(snapshot(good), before);
                       EXPECT_EQ(layer.saved().statistics, Saved::Statistics::none);
                       if (layer.options().track_running_stats) {
                         EXPECT_EQ(layer.values<std::int64_t>("num_batches_tracked")[0], 0);
                       }
                       expect_error<GroupError>([&] { batch.forward(good); }, {"'world'", "broken"});
                     }),
            all(3, "ok"));
}

class Mismatch : public ::testing::TestWithParam<Setting> {};

TEST_P(Mismatch, InForward) {
  SyncBatchNormOptions options;
  GetParam().differ(options);
  expect_mismatch(
      options,
      [](SyncBatchNorm&, SyncBatchNorm& layer, int) {
        Call({2, 2}, {1, 2, 3, 5}).forward(layer);
      },
      GetParam().facts);
}

INSTANTIATE_TEST_SUITE_P(Settings, Mismatch, ::testing::ValuesIn(kSettings),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(MismatchOf, Channels) {
  EXPECT_EQ(outcomes(3,
                     [&](int rank) {
                       SyncBatchNorm good(2);
                       Call({2, 2}, {1, 2, 3, 5}).forward(good);
                       SyncBatchNorm layer(rank == 1 ? 3 : 2);
                       Call batch({1, layer.num_features()},
                                  DeviceVector<float>(static_cast<std::size_t>(layer.num_features()), 1));
                       expect_told(outcome([&] { batch.forward(layer); }), {"C=3", "C=2"});
                     }),
            all(3, "ok"));
}

TEST(MismatchOf, InputDtype) {
  expect_mismatch({},
                  [](SyncBatchNorm&, SyncBatchNorm& layer, int rank) {
                    if (rank != 1) return Call({2, 2}, {1, 2, 3, 5}).forward(layer);
                    const DeviceVector<double> x{1, 2, 3, 5};
                    DeviceVector<double> y(4);
                    layer.forward(view(x, {2, 2}), view(y, {2, 2}));
                  },
                  {"input=float64", "input=float32"});
}

TEST(MismatchOf, Direction) {
  expect_mismatch({},
                  [](SyncBatchNorm& good, SyncBatchNorm& layer, int rank) {
                    Call batch({2, 2}, {1, 2, 3, 5});
                    if (rank == 1) return batch.backward(good);
                    batch.forward(layer);
                  },
                  {"backward ... unnamed layer", "forward ... unnamed layer"});
}

TEST(MismatchOf, LayerOrder) {
  expect_mismatch({},
                  [](SyncBatchNorm& good, SyncBatchNorm& layer, int rank) {
                    Call({2, 2}, {1, 2, 3, 5}).forward(rank == 1 ? good : layer);
                  },
                  {"number 1 by first calls", "number 2 by construction", "SyncBatchNormOptions::name"});
}

// What a rank constructs and does not train is its own affair: a model to count parameters, a copy that
// averages.
TEST(MismatchOf, NotOfLayersThatTakeNoPart) {
  EXPECT_EQ(outcomes(2,
                     [&](int rank) {
                       create_group("other", {1, 0});
                       SyncBatchNormOptions other;
                       other.process_group = "other";
                       Call batch({2, 2}, {1, 2, 3, 5});
                       std::vector<SyncBatchNorm> more;
                       const auto construct_more = [&] {
                         for (int i = 0; i < 3 * rank; ++i) more.emplace_back(2);
                         for (SyncBatchNorm& layer : more) {
                           layer.set_train(false);
                           batch.forward(layer);
                         }
                       };
                       construct_more();
                       SyncBatchNorm first(2), second(2), of_other(2, other);
                       for (int step = 0; step < 2; ++step) {
                         batch.forward(first);
                         construct_more();
                         batch.forward(of_other);
                         batch.forward(second);
                         SyncBatchNorm of_step(2);
                         batch.forward(of_step);
                         EXPECT_EQ(of_step.saved().count, 4);
                       }
                     }),
            all(2, "ok"));
}

// A teacher and its student, which the ranks call in another order: found at the second of them.
TEST(MismatchOf, OrderOfTwoLayers) {
  for (const std::string name : {"", "both"}) {
    const auto seen = outcomes(2, [&](int rank) {
      SyncBatchNormOptions options;
      options.name = name;
      SyncBatchNorm student(2, options), teacher(2, options);
      Call batch({2, 2}, {1, 2, 3, 5});
      batch.forward(rank == 0 ? teacher : student);
      SyncBatchNorm& second = rank == 0 ? student : teacher;
      const Snapshot before = snapshot(second);
      const std::string text = outcome([&] { batch.forward(second); });
      EXPECT_EQ(snapshot(second), before);
      expect_error<MismatchError>(text, {"call 2", "rank 0 ... number 1 by construction", "from call 1 on",
                                         "rank 1 ... number 2 by construction"});
    });
    EXPECT_EQ(seen, all(2, "ok"));
  }
}

// What may differ: samples and spatial sizes, and how many dimensions hold them.
TEST(MismatchOf, NotOfShapes) {
  EXPECT_EQ(outcomes(3,
                     [&](int rank) {
                       SyncBatchNorm layer(1);
                       Call batch = rank == 0   ? Call({2, 1}, {1, 2})
                                    : rank == 1 ? Call({1, 1, 3}, {3, 4, 5})
                                                : Call({1, 1, 2, 2}, {6, 7, 8, 9});
                       batch.forward(layer);
                       batch.backward(layer);
                       EXPECT_EQ(layer.saved().count, 9);
                       EXPECT_EQ(layer.saved().mean[0], 5);
                     }),
            all(3, "ok"));
}

// Evaluation says nothing to the group: the others hear of a rank in another mode when it ends, or by the
// deadline.
TEST(MismatchOf, Mode) {
  const auto seen = outcomes(2, [&](int rank) {
    SyncBatchNorm layer(2);
    layer.set_train(rank == 0);
    Call({2, 2}, {1, 2, 3, 5}).forward(layer);
  });
  expect_error<PeerError>(seen[0], {"'world'", "call 1", "forward ... unnamed layer"});
  EXPECT_EQ(seen[1], "ok");
}

// ---- a rank that fails of itself ----

struct Failure {
  std::string name;
  std::function<void(SyncBatchNorm&, Call&)> call;  // of rank 1, instead of a good forward or backward
  bool backward;
  std::vector<std::string> facts;  // of its message, and of what the others are told
};
std::ostream& operator<<(std::ostream& out, const Failure& failure) { return out << failure.name; }

const std::vector<Failure> kFailures = {
    {"shape",
     [](SyncBatchNorm& layer, Call&) {
       Call({1, 3}, {1, 2, 3}).forward(layer);
     },
     false,
     {"x", "(1, 3)", "num_features ... 2"}},
    {"null_data",
     [](SyncBatchNorm& layer, Call& batch) {
       ForwardTensors tensors = batch.forward_tensors();
       tensors.x.data = nullptr;
       layer.forward(tensors);
     },
     false,
     {"x", "null", "4 elements"}},
    {"overlap",
     [](SyncBatchNorm& layer, Call& batch) {
       ForwardTensors tensors = batch.forward_tensors();
       tensors.y.data = batch.x.data();
       layer.forward(tensors);
     },
     false,
     {"y", "16 bytes", "x"}},
    {"dy_dtype",
     [](SyncBatchNorm& layer, Call& batch) {
       BackwardTensors tensors = batch.backward_tensors();
       tensors.dy.dtype = DType::float16;
       layer.backward(tensors);
     },
     true,
     {"dy", "float16", "float32"}},
    {"count",
     [](SyncBatchNorm& layer, Call&) {
       Call({50, 2}, DeviceVector<float>(100, 1)).backward(layer);
     },
     true,
     {"x", "50 elements ... 6"}},
    {"saved",
     [](SyncBatchNorm& layer, Call& batch) {
       Saved saved = layer.saved();
       saved.mean.resize(1, kHostMemory);
       layer.backward(saved, batch.backward_tensors());
     },
     true,
     {"saved", "1 channels", "num_features ... 2"}},
};

class LocalFailure : public ::testing::TestWithParam<Failure> {};

TEST_P(LocalFailure, IsItsOwnErrorAndThePeersAreTold) {
  const Failure& failure = GetParam();
  EXPECT_EQ(outcomes(3,
                     [&](int rank) {
                       SyncBatchNorm layer(2);
                       Call batch({2, 2}, {1, 2, 3, 5});
                       batch.forward(layer);
                       const Snapshot before = snapshot(layer);
                       const std::string outcome = testing::outcome([&] {
                         if (rank == 1) return failure.call(layer, batch);
                         failure.backward ? batch.backward(layer) : batch.forward(layer);
                       });
                       if (rank == 1) {
                         expect_error<InvalidArgument>(outcome, failure.facts);
                       } else {
                         for (const std::string& fact : failure.facts)
                           expect_error<PeerError>(outcome, {"rank 1 ... " + fact});
                       }
                       EXPECT_EQ(snapshot(layer), before);
                       expect_error<GroupError>([&] { batch.forward(layer); }, {"'world'"});
                       EXPECT_EQ(snapshot(layer), before);
                     }),
            all(3, "ok"));
}

INSTANTIATE_TEST_SUITE_P(Failures, LocalFailure, ::testing::ValuesIn(kFailures),
                         [](const auto& param_info) { return param_info.param.name; });

// The same failures in a world of one change nothing and break nothing.
TEST_P(LocalFailure, AloneBreaksNothing) {
  const Failure& failure = GetParam();
  EXPECT_EQ(outcomes(1,
                     [&](int) {
                       SyncBatchNorm layer(2);
                       Call batch({6, 2}, {1, 2, 3, 5, 1, 2, 3, 5, 1, 2, 3, 5});
                       batch.forward(layer);
                       Call part({2, 2}, {1, 2, 3, 5});
                       const Snapshot before = snapshot(layer);
                       expect_error<InvalidArgument>([&] { failure.call(layer, part); }, failure.facts);
                       EXPECT_EQ(snapshot(layer), before);
                       batch.forward(layer);
                       batch.backward(layer);
                     }),
            all(1, "ok"));
}

TEST(FailedCall, BackwardBeforeForwardInAGroup) {
  const auto seen = outcomes(2, [&](int rank) {
    SyncBatchNorm first(1);
    SyncBatchNorm layer(1);
    Call batch({2, 1}, {1, 2});
    batch.forward(first);
    batch.backward(rank == 1 ? layer : first);
  });
  expect_error<InvalidArgument>(seen[1], {"backward", "no forward"});
  expect_error<PeerError>(seen[0],
                          {"'world'", "call 2", "backward ... unnamed layer", "rank 1 ... no forward"});
}

}  // namespace
}  // namespace syncbn::testing
