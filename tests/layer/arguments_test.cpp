// SPDX-License-Identifier: Apache-2.0

// Bad input for every public function of the layer's headers: the error's class, and a message that names the
// argument, its value and what is allowed.
//
// control: each of these, tried one at a time, makes it fail: no check_apart of tensors, or of d_weight;
// momentum's condition written as `momentum < 0 || momentum > 1`, which NaN passes; the memory per channel of
// a double backward not looked at; a Saved of no forward, or one that is tracked, not looked at.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "layer/calls.h"
#include "syncbn/framework.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr auto kNoDType = static_cast<DType>(4);

struct Bad {
  std::string name;
  std::function<void()> call;
  std::vector<std::string> facts;
};

void expect(const std::vector<Bad>& cases) {
  for (const Bad& bad : cases) {
    SCOPED_TRACE(bad.name);
    expect_error<InvalidArgument>(bad.call, bad.facts);
  }
}

// An engine of the caller's own that gives less than it is asked for.
class ShortBuffer final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    buffer_.resize(words - 1);
    return buffer_;
  }
  void start(std::size_t) override { ADD_FAILURE() << "started"; }
  void wait(Deadline) override {}
  void abort() noexcept override {}

 private:
  std::vector<std::int64_t> buffer_;
};

using Change = void (*)(SyncBatchNormOptions&);

void construct(Change change, std::int64_t num_features = 2) {
  SyncBatchNormOptions options;
  change(options);
  const SyncBatchNorm layer(num_features, options);
}

TEST(BadInput, NumFeatures) {
  const auto none = [](SyncBatchNormOptions&) {};
  for (const std::int64_t features : {std::int64_t{0}, std::int64_t{-3}, INT64_MAX}) {
    expect_error<InvalidArgument>([&] { construct(none, features); },
                                  {"num_features ... " + std::to_string(features), "1 ... 2147483648"});
  }
}

TEST(BadInput, Options) {
  const std::pair<Change, std::vector<std::string>> cases[] = {
      {[](auto& o) { o.eps = -1e-5; }, {"eps ... -1e-05", "finite", "0"}},
      {[](auto& o) { o.eps = kNan; }, {"eps ... nan", "finite", "0"}},
      {[](auto& o) { o.eps = kInf; }, {"eps ... inf", "finite", "0"}},
      {[](auto& o) { o.momentum = -0.1; }, {"momentum ... -0.1", "none", "[0, 1]"}},
      {[](auto& o) { o.momentum = 1.0000000000000002; },
       {"momentum ... 1.0000000000000002", "none", "[0, 1]"}},
      {[](auto& o) { o.momentum = kNan; }, {"momentum ... nan", "none", "[0, 1]"}},
      {[](auto& o) { o.dtype = kNoDType; }, {"dtype ... 4", "float16", "bfloat16", "float32", "float64"}},
      {[](auto& o) { o.affine_gradients = static_cast<AffineGradients>(2); },
       {"affine_gradients ... 2", "local", "group"}},
      {[](auto& o) { o.nonfinite = static_cast<Nonfinite>(3); },
       {"nonfinite ... 3", "propagate", "skip_update", "error"}},
      {[](auto& o) { o.activation = static_cast<Activation>(2); }, {"activation ... 2", "none", "relu"}},
      {[](auto& o) { o.process_group = std::shared_ptr<Group>(); }, {"process_group ... null"}},
  };
  for (const auto& [change, facts] : cases) {
    expect_error<InvalidArgument>([&, &change = change] { construct(change); }, facts);
  }
  const Change unknown = [](auto& o) { o.process_group = "nobody"; };
  expect_error<GroupError>([&] { construct(unknown); }, {"'nobody'"});
  run_ranks(1, [&](int) { expect_error<GroupError>([&] { construct(unknown); }, {"'nobody'"}); });
}

TEST(BadInput, TheEdgesAreAllowed) {
  EXPECT_EQ(outcome([] { construct([](auto& o) { o.eps = 0; }, 1); }), "ok");
  EXPECT_EQ(outcome([] { construct([](auto& o) { o.momentum = 0; }); }), "ok");
  EXPECT_EQ(outcome([] { construct([](auto& o) { o.momentum = 1; }); }), "ok");
  EXPECT_EQ(outcome([] { Shape({0, 1, 0}); }), "ok");
  EXPECT_EQ(outcome([] { Shape({std::int64_t{1} << 24, std::int64_t{1} << 24}); }), "ok");
}

TEST(BadInput, Shapes) {
  const std::int64_t big = std::int64_t{1} << 32;  // its square wraps to 0
  const std::pair<std::vector<std::int64_t>, std::vector<std::string>> cases[] = {
      {{}, {"shape ... ()", "dimensions"}},
      {{3}, {"shape ... (3)", "dimensions"}},
      {{-1, 2}, {"shape ... (-1, 2)", "0"}},
      {{1, 2, -5}, {"shape ... (1, 2, -5)", "0"}},
      {{1, 0}, {"shape ... (1, 0)", "C"}},
      {{(std::int64_t{1} << 24) + 1, std::int64_t{1} << 24}, {"shape ... (16777217, 16777216)", "2^48"}},
      {{big, big}, {"shape ... (4294967296, 4294967296)", "2^48"}},
      {{0, big, big}, {"shape ... (0, 4294967296, 4294967296)", "2^48"}},
      {{INT64_MAX, INT64_MAX, INT64_MAX}, {"shape", "2^48"}},
  };
  for (const auto& [sizes, facts] : cases) {
    expect_error<InvalidArgument>([&, &sizes = sizes] { const Shape shape(sizes); }, facts);
  }
}

TEST(BadInput, Views) {
  DeviceVector<float> data(5);
  const Shape six{2, 3}, four{2, 2}, other_four{1, 4};
  expect(
      {{"view", [&] { view(data, six); }, {"data", "5 elements ... 6 ... (2, 3)"}},
       {"const view", [&] { view(std::as_const(data), four); }, {"data", "5 elements ... 4 ... (2, 2)"}},
       {"span", [&] { view(std::span<float>(data), other_four); }, {"data", "5 elements ... 4 ... (1, 4)"}}});
}

TEST(BadInput, Values) {
  SyncBatchNormOptions options;
  options.affine = false;
  SyncBatchNorm layer(2, options);
  expect(
      {{"unknown",
        [&] { layer.values<float>("gamma"); },
        {"name", "'gamma'", "running_mean", "running_var", "num_batches_tracked"}},
       {"absent",
        [&] { layer.values<float>("weight"); },
        {"name", "'weight'", "running_mean", "running_var", "num_batches_tracked"}},
       {"dtype", [&] { layer.values<double>("running_mean"); }, {"float64 ... 'running_mean' ... float32"}},
       {"counter",
        [&] { layer.values<float>("num_batches_tracked"); },
        {"float32 ... 'num_batches_tracked' ... int64"}},
       {"no counter",
        [&] { layer.values<std::int64_t>("running_var"); },
        {"int64 ... 'running_var' ... float32"}}});
}

TEST(BadInput, IsaAndThreads) {
  const std::string active = active_isa();
  const int threads = get_num_threads();
  expect({{"isa", [] { force_isa("mmx"); }, {"name", "'mmx'", "scalar"}},
          {"empty isa", [] { force_isa(""); }, {"name", "''", "scalar"}},
          {"threads", [] { set_num_threads(-1); }, {"count", "-1", "0", "4096"}},
          {"too many threads", [] { set_num_threads(4097); }, {"count", "4097", "0", "4096"}}});
  EXPECT_EQ(active_isa(), active);
  EXPECT_EQ(get_num_threads(), threads);
}

// In processes of their own, for the variables are read once.
TEST(BadInput, EnvironmentOfIsaAndThreads) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto child = [](const char* variable, const char* value) {
    setenv(variable, value, 1);
    std::string text = outcome([] { const SyncBatchNorm layer(1); });
    text += "; " + outcome([] { const SyncBatchNorm layer(1); });  // and stays an error
    std::fprintf(stderr, "%s\n", text.c_str());
    std::exit(0);
  };
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"SYNCBN_ISA", "mmx", "scalar"},
      {"SYNCBN_NUM_THREADS", "0", ".1, 4096."},
      {"SYNCBN_NUM_THREADS", "-2", ".1, 4096."},
      {"SYNCBN_NUM_THREADS", "4097", ".1, 4096."},
      {"SYNCBN_NUM_THREADS", "99999999999", ".1, 4096."},
      {"SYNCBN_NUM_THREADS", "2x", ".1, 4096."},
      {"OMP_NUM_THREADS", "many", ".1, 4096."},
  };
  for (const auto& [variable, value, allowed] : cases) {
    const std::string expected =
        std::string("InvalidArgument: .*") + variable + ".*'" + value + "'.*" + allowed;
    EXPECT_EXIT(child(variable, value), ::testing::ExitedWithCode(0), expected + ".*; " + expected);
  }
  EXPECT_EXIT(child("OMP_NUM_THREADS", "2,1"), ::testing::ExitedWithCode(0), "ok; ok");
}

// A call's tensors with one thing wrong in them.
template <class Tensors>
struct Spoiled {
  std::string name;
  std::function<void(Tensors&, Call&)> spoil;
  std::vector<std::string> facts;
  Activation activation = Activation::none;
};

// Each case is a forward of a (2, 2, 2) batch, in training and in evaluation, by each function that makes it.
void expect_forward(const std::vector<Spoiled<ForwardTensors>>& cases) {
  for (const auto& [name, spoil, facts, activation] : cases) {
    for (const bool training : {true, false}) {
      SyncBatchNorm layer(2);
      layer.set_train(training);
      const Snapshot before = snapshot(layer);
      Call call({2, 2, 2}, DeviceVector<float>(8, 1));
      ForwardTensors tensors = call.forward_tensors();
      spoil(tensors, call);
      Saved saved;
      JointCall joint;
      expect({{name, [&] { layer.forward(tensors); }, facts},
              {name + ", saved", [&] { layer.forward(tensors, saved); }, facts},
              {name + ", normalize", [&] { FrameworkHooks(layer).normalize(tensors, saved); }, facts},
              {name + ", joint", [&] { joint.forward(layer, tensors, saved); }, facts}});
      EXPECT_EQ(snapshot(layer), before) << name;
      EXPECT_EQ(saved.statistics, Saved::Statistics::none) << name;
      EXPECT_EQ(call.y, DeviceVector<float>(8)) << name;
    }
  }
}

const void* odd_address(const DeviceVector<float>& data) {
  return reinterpret_cast<const char*>(data.data()) + 1;
}

TEST(BadInput, Forward) {
  using T = ForwardTensors&;
  expect_forward({
      {"x channels",
       [](T t, Call&) {
         t.x.shape = {2, 4};
       },
       {"x", "(2, 4)", "num_features ... 2"}},
      {"x null", [](T t, Call&) { t.x.data = nullptr; }, {"x", "null", "8 elements"}},
      {"x dtype",
       [](T t, Call&) { t.x.dtype = kNoDType; },
       {"x", "4", "float16", "bfloat16", "float32", "float64"}},
      {"x layout",
       [](T t, Call&) { t.x.layout = static_cast<Layout>(2); },
       {"x", "2", "channels_first", "channels_last"}},
      {"x aligned", [](T t, Call& c) { t.x.data = odd_address(c.x); }, {"x", "4 bytes"}},
      {"y null", [](T t, Call&) { t.y.data = nullptr; }, {"y", "null", "8 elements"}},
      {"y shape",
       [](T t, Call&) {
         t.y.shape = {2, 2, 1};
       },
       {"y", "(2, 2, 1)", "(2, 2, 2)"}},
      {"y dims",
       [](T t, Call&) {
         t.y.shape = {2, 2, 2, 1};
       },
       {"y", "(2, 2, 2, 1)", "(2, 2, 2)"}},
      {"y dtype", [](T t, Call&) { t.y.dtype = DType::bfloat16; }, {"y", "bfloat16", "float32"}},
      {"y no dtype", [](T t, Call&) { t.y.dtype = kNoDType; }, {"y", "4", "float32"}},
      {"y layout",
       [](T t, Call&) { t.y.layout = Layout::channels_last; },
       {"y", "channels_last", "channels_first"}},
      {"residual dtype",
       [](T t, Call& c) {
         t.residual = t.x;
         t.residual->data = c.dy.data();
         t.residual->dtype = DType::float16;
       },
       {"residual", "float16", "float32"}},
      {"residual shape",
       [](T t, Call& c) {
         t.residual = view(std::as_const(c.dy), {4, 2});
       },
       {"residual", "(4, 2)", "(2, 2, 2)"}},
      {"residual null",
       [](T t, Call&) {
         t.residual = t.x;
         t.residual->data = nullptr;
       },
       {"residual", "null", "8 elements"}},
      {"residual layout",
       [](T t, Call&) {
         t.residual = t.x;
         t.residual->layout = Layout::channels_last;
       },
       {"residual", "channels_last", "channels_first"}},
  });
}

TEST(BadInput, ForwardOverlap) {
  using T = ForwardTensors&;
  DeviceVector<float> room(12);
  const auto part = [&](int shift) {
    return [&room, shift](T t, Call&) {
      t.x.data = room.data() + 3;
      t.y.data = room.data() + 3 + shift;
    };
  };
  expect_forward({
      {"in place", [](T t, Call& c) { t.y.data = c.x.data(); }, {"y", "32 bytes", "x"}},
      {"ends in x", part(-3), {"y", "32 bytes", "x"}},
      {"is x", part(0), {"y", "32 bytes", "x"}},
      {"begins in x", part(1), {"y", "32 bytes", "x"}},
      {"residual",
       [&](T t, Call&) {
         t.residual = t.x;
         t.residual->data = room.data() + 4;
         t.y.data = room.data();
       },
       {"y", "32 bytes", "residual"}},
  });
}

// Each case is a backward, after a training forward and after one in evaluation, by each function that makes
// it.
void expect_backward(const std::vector<Spoiled<BackwardTensors>>& cases) {
  for (const auto& [name, spoil, facts, activation] : cases) {
    for (const bool training : {true, false}) {
      SyncBatchNormOptions options;
      options.activation = activation;
      SyncBatchNorm layer(2, options);
      layer.set_train(training);
      Call call({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
      call.forward(layer);
      const Snapshot before = snapshot(layer);
      BackwardTensors tensors = call.backward_tensors();
      spoil(tensors, call);
      BackwardSums sums;
      JointCall joint;
      expect({{name, [&] { layer.backward(tensors); }, facts},
              {name + ", saved", [&] { layer.backward(layer.saved(), tensors); }, facts},
              {name + ", sums", [&] { FrameworkHooks(layer).backward(layer.saved(), tensors, sums); }, facts},
              {name + ", joint", [&] { joint.backward(layer, layer.saved(), tensors); }, facts}});
      EXPECT_EQ(snapshot(layer), before) << name;
      EXPECT_TRUE(sums.a.empty()) << name;
      EXPECT_EQ(call.dx, DeviceVector<float>(8)) << name;
    }
  }
}

TEST(BadInput, Backward) {
  using T = BackwardTensors&;
  expect_backward({
      {"x channels",
       [](T t, Call&) {
         t.x.shape = {2, 4};
       },
       {"x", "(2, 4)", "num_features ... 2"}},
      {"x null", [](T t, Call&) { t.x.data = nullptr; }, {"x", "null", "8 elements"}},
      {"dy shape",
       [](T t, Call&) {
         t.dy.shape = {4, 2};
       },
       {"dy", "(4, 2)", "(2, 2, 2)"}},
      {"dy dtype", [](T t, Call&) { t.dy.dtype = DType::bfloat16; }, {"dy", "bfloat16", "float32"}},
      {"dy layout",
       [](T t, Call&) { t.dy.layout = Layout::channels_last; },
       {"dy", "channels_last", "channels_first"}},
      {"dy null", [](T t, Call&) { t.dy.data = nullptr; }, {"dy", "null", "8 elements"}},
      {"dy aligned", [](T t, Call& c) { t.dy.data = odd_address(c.dy); }, {"dy", "4 bytes"}},
      {"dx shape",
       [](T t, Call&) {
         t.dx->shape = {4, 2};
       },
       {"dx", "(4, 2)", "(2, 2, 2)"}},
      {"dx dtype", [](T t, Call&) { t.dx->dtype = DType::float16; }, {"dx", "float16", "float32"}},
      {"dx null", [](T t, Call&) { t.dx->data = nullptr; }, {"dx", "null", "8 elements"}},
      {"y missing", [](T t, Call&) { t.y.reset(); }, {"y", "none"}, Activation::relu},
      {"y dtype",
       [](T t, Call&) { t.y->dtype = DType::float64; },
       {"y", "float64", "float32"},
       Activation::relu},
      {"y shape",
       [](T t, Call&) {
         t.y->shape = {1, 2, 4};
       },
       {"y", "(1, 2, 4)", "(2, 2, 2)"},
       Activation::relu},
      {"d_residual shape",
       [](T t, Call& c) {
         t.d_residual = view(c.y, {4, 2});
       },
       {"d_residual", "(4, 2)", "(2, 2, 2)"}},
  });
  DeviceVector<float> more(10);
  expect_backward({
      {"more elements than the forward",
       [&](T t, Call&) {
         const Shape shape{5, 2};
         t = {view(std::as_const(more), shape), view(std::as_const(more), shape), std::nullopt, std::nullopt,
              std::nullopt};
       },
       {"x", "5 elements ... 4"}},
  });
}

// In place only dx = dy.
TEST(BadInput, BackwardOverlap) {
  using T = BackwardTensors&;
  expect_backward({
      {"dx overlaps x", [](T t, Call& c) { t.dx->data = c.x.data(); }, {"dx", "32 bytes", "x"}},
      {"dx overlaps y", [](T t, Call& c) { t.dx->data = c.y.data(); }, {"dx", "32 bytes", "y"}},
  });
  DeviceVector<float> room(12, 1.0F);
  expect_backward({
      {"dx overlaps dy",
       [&](T t, Call&) {
         t.dy.data = room.data();
         t.dx->data = room.data() + 1;
       },
       {"dx", "32 bytes", "dy"}},
      {"d_residual overlaps dy",
       [](T t, Call& c) {
         t.d_residual = t.dx;
         t.d_residual->data = c.dy.data();
       },
       {"d_residual", "32 bytes", "dy"}},
      {"d_residual overlaps x",
       [](T t, Call& c) {
         t.d_residual = t.dx;
         t.d_residual->data = c.x.data();
       },
       {"d_residual", "32 bytes", "x"}},
      {"d_residual overlaps dx", [](T t, Call&) { t.d_residual = t.dx; }, {"d_residual", "32 bytes", "dx"}},
  });
}

// A double backward of everything, with one thing wrong in it.
struct DoubleCall {
  DeviceVector<float> u = DeviceVector<float>(8, 1), t = u, d_dy = u, d_x = u;
  DeviceVector<float> dd_weight{1, 2}, dd_bias{3, 4}, d_weight{5, 6};
};

using Spoil = std::function<void(DoubleBackwardTensors&, Call&, DoubleCall&, Saved&, BackwardSums&)>;

// No facts: the call is allowed.
void expect_double_backward(const std::string& name, const Spoil& spoil,
                            const std::vector<std::string>& facts) {
  for (const bool training : {true, false}) {
    SyncBatchNormOptions options;
    options.activation = Activation::relu;
    SyncBatchNorm layer(2, options);
    layer.set_train(training);
    Call call({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
    call.forward(layer);
    BackwardSums sums;
    FrameworkHooks(layer).backward(layer.saved(), call.backward_tensors(), sums);
    const Snapshot before = snapshot(layer);
    Saved saved = layer.saved();
    DoubleCall more;
    const auto read = [&](const DeviceVector<float>& values) { return view(values, call.shape); };
    DoubleBackwardTensors tensors{read(call.dy),
                                  read(call.x),
                                  read(call.y),
                                  read(more.u),
                                  read(more.t),
                                  view(more.d_dy, call.shape),
                                  view(more.d_x, call.shape)};
    tensors.dd_weight = more.dd_weight.data();
    tensors.dd_bias = more.dd_bias.data();
    tensors.d_weight = more.d_weight.data();
    spoil(tensors, call, more, saved, sums);
    const auto double_backward = [&] { FrameworkHooks(layer).double_backward(saved, sums, tensors); };
    if (facts.empty()) {
      EXPECT_EQ(outcome(double_backward), "ok") << name;
    } else {
      expect({{name, double_backward, facts}});
      EXPECT_EQ(more.d_dy, DeviceVector<float>(8, 1)) << name;
      EXPECT_EQ(more.d_x, DeviceVector<float>(8, 1)) << name;
      EXPECT_EQ(more.d_weight, (DeviceVector<float>{5, 6})) << name;
    }
    EXPECT_EQ(snapshot(layer), before) << name;
  }
}

TEST(BadInput, DoubleBackward) {
  using T = DoubleBackwardTensors&;
  using D = DoubleCall&;
  const struct {
    std::string name;
    std::function<void(T, Call&, D)> spoil;
    std::vector<std::string> facts;
  } cases[] = {
      {"x channels",
       [](T t, Call&, D) {
         t.x.shape = {2, 4};
       },
       {"x", "(2, 4)", "num_features ... 2"}},
      {"dy null", [](T t, Call&, D) { t.dy.data = nullptr; }, {"dy", "null", "8 elements"}},
      {"y missing", [](T t, Call&, D) { t.y.reset(); }, {"y", "none"}},
      {"ddx dtype", [](T t, Call&, D) { t.ddx->dtype = DType::float16; }, {"ddx", "float16", "float32"}},
      {"dd_residual layout",
       [](T t, Call&, D) { t.dd_residual->layout = Layout::channels_last; },
       {"dd_residual", "channels_last", "channels_first"}},
      {"d_dy shape",
       [](T t, Call&, D) {
         t.d_dy->shape = {4, 2};
       },
       {"d_dy", "(4, 2)", "(2, 2, 2)"}},
      {"d_x null", [](T t, Call&, D) { t.d_x->data = nullptr; }, {"d_x", "null", "8 elements"}},
      {"dd_weight aligned",
       [](T t, Call&, D d) { t.dd_weight = odd_address(d.dd_weight); },
       {"dd_weight", "4 bytes"}},
      {"dd_bias aligned",
       [](T t, Call&, D d) { t.dd_bias = odd_address(d.dd_bias); },
       {"dd_bias", "4 bytes"}},
      {"d_weight aligned",
       [](T t, Call&, D d) { t.d_weight = reinterpret_cast<char*>(d.d_weight.data()) + 1; },
       {"d_weight", "4 bytes"}},
      // Outputs overlap nothing, but d_weight may be dd_weight, which is read before.
      {"d_dy overlaps dy", [](T t, Call& c, D) { t.d_dy->data = c.dy.data(); }, {"d_dy", "32 bytes", "dy"}},
      {"d_x overlaps ddx", [](T t, Call&, D d) { t.d_x->data = d.u.data(); }, {"d_x", "32 bytes", "ddx"}},
      {"d_x overlaps dd_residual",
       [](T t, Call&, D d) { t.d_x->data = d.t.data(); },
       {"d_x", "32 bytes", "dd_residual"}},
      {"d_x overlaps d_dy",
       [](T t, Call&, D d) { t.d_x->data = d.d_dy.data(); },
       {"d_x", "32 bytes", "d_dy"}},
      {"d_weight overlaps x",
       [](T t, Call& c, D) { t.d_weight = c.x.data() + 6; },
       {"d_weight", "8 bytes", "x"}},
      {"d_weight overlaps d_x",
       [](T t, Call&, D d) { t.d_weight = d.d_x.data() + 3; },
       {"d_weight", "8 bytes", "d_x"}},
      {"d_weight in place of dd_weight", [](T t, Call&, D d) { t.d_weight = d.dd_weight.data(); }, {}},
  };
  for (const auto& c : cases) {
    expect_double_backward(
        c.name, [&](T t, Call& call, D d, Saved&, BackwardSums&) { c.spoil(t, call, d); }, c.facts);
  }
}

TEST(BadInput, WhatADoubleBackwardWasLeft) {
  const struct {
    std::string name;
    std::function<void(Saved&, BackwardSums&)> spoil;
    std::vector<std::string> facts;
  } cases[] = {
      {"no forward", [](Saved& saved, BackwardSums&) { saved = {}; }, {"backward", "no forward"}},
      {"another layer's",
       [](Saved& saved, BackwardSums&) { saved.var.resize(3, kHostMemory); },
       {"saved", "3 channels", "num_features ... 2"}},
      {"fewer elements than the call",
       [](Saved& saved, BackwardSums&) { saved.count = 3; },
       {"x", "4 elements ... 3"}},
      {"no sums",
       [](Saved&, BackwardSums& sums) { sums = {}; },
       {"sums", "0 channels", "num_features ... 2"}},
      {"sums of another layer",
       [](Saved&, BackwardSums& sums) { sums.own_b.resize(1, kHostMemory); },
       {"sums", "1 channels", "num_features ... 2"}},
  };
  for (const auto& c : cases) {
    expect_double_backward(
        c.name,
        [&](DoubleBackwardTensors&, Call&, DoubleCall&, Saved& saved, BackwardSums& sums) {
          c.spoil(saved, sums);
        },
        c.facts);
  }
}

TEST(BadInput, TrackedOfAnotherLayer) {
  SyncBatchNorm layer(2), other(3);
  Call call({2, 3}, {1, 2, 3, 4, 5, 6});
  call.forward(other);
  const Snapshot before = snapshot(layer);
  expect_error<InvalidArgument>([&] { FrameworkHooks(layer).track(other.saved()); },
                                {"saved", "3 channels", "num_features ... 2"});
  EXPECT_EQ(snapshot(layer), before);
  FrameworkHooks(layer).track({});  // of no forward: nothing
  EXPECT_EQ(snapshot(layer), before);
}

TEST(BadInput, FailingAloneBreaksNothing) {
  SyncBatchNorm layer(2);
  Call call({2, 2}, {1, 2, 3, 5});
  FrameworkHooks(layer).fail(Direction::forward, "nobody hears it");
  call.forward(layer);
  FrameworkHooks(layer).fail(Direction::backward, "nor this");
  EXPECT_EQ(outcome([&] { call.backward(layer); }), "ok");
}

// Memory that would go on at address 0, where sums of addresses wrap.
TEST(BadInput, BeyondTheAddressSpace) {
  float* const last = reinterpret_cast<float*>(UINTPTR_MAX - 15);
  expect_forward({
      {"x",
       [&](ForwardTensors& t, Call&) { t.x.data = last; },
       {"x", "32 bytes", "0xfffffffffffffff0", "address space"}},
      {"y",
       [&](ForwardTensors& t, Call&) { t.y.data = last; },
       {"y", "32 bytes", "0xfffffffffffffff0", "address space"}},
  });
  expect_backward({
      {"dx",
       [&](BackwardTensors& t, Call&) { t.dx->data = last; },
       {"dx", "32 bytes", "0xfffffffffffffff0", "address space"}},
  });
}

// Without the memory for them a layer of so many channels is not made, and has taken no number in its group.
TEST(BadInput, MoreChannelsThanMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's own memory takes part of the limit";
#endif
  const auto child = [] {
    const rlimit limit{rlim_t{3} << 30, rlim_t{3} << 30};
    setrlimit(RLIMIT_AS, &limit);
    SyncBatchNormOptions options;
    options.process_group = make_group("own", std::make_unique<ShortBuffer>());
    const std::int64_t most = std::int64_t{1} << 31;
    std::string text = "made";
    try {
      const SyncBatchNorm layer(most, options);
    } catch (const std::bad_alloc& error) {
      text = error.what();
    }
    text += "; " + std::to_string(SyncBatchNorm(1, options).num_features());
    text += "; " + outcome([&] { const SyncBatchNorm layer(most + 1, options); });
    std::fprintf(stderr, "%s\n", text.c_str());
    std::exit(0);
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(0),
              "std::bad_alloc; 1; InvalidArgument: .*num_features.*2147483649.*2147483648");
}

TEST(BadInput, AnEnginesShortBuffer) {
  SyncBatchNormOptions options;
  options.process_group = make_group("own", std::make_unique<ShortBuffer>());
  SyncBatchNorm layer(2, options);
  const Snapshot before = snapshot(layer);
  Call call({2, 2}, {1, 2, 3, 5});
  expect_error<PeerError>([&] { call.forward(layer); },
                          {"'own'", "call 1", "forward ... unnamed layer", "rank 0 ... 2 words ... 3"});
  EXPECT_EQ(snapshot(layer), before);
}

TEST(BadInput, EmptyTensorsMayBeNull) {
  SyncBatchNorm layer(2);
  const Shape shape{0, 2, 3};
  const TensorView none{.data = nullptr, .dtype = DType::float32, .shape = shape, .device = test_device()};
  EXPECT_EQ(outcome([&] {
              layer.forward(none, none);
              layer.backward(none, none, none);
            }),
            "ok");
}

}  // namespace
}  // namespace syncbn::testing
