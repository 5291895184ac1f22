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

#include "layer/outcomes.h"
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
  std::string outcome;  // how it begins
};

void expect(const std::vector<Bad>& cases) {
  for (const Bad& bad : cases) {
    const std::string outcome = testing::outcome(bad.call);
    EXPECT_TRUE(outcome.starts_with(bad.outcome))
        << bad.name << ": " << outcome << "\nexpected " << bad.outcome;
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

void construct(const std::function<void(SyncBatchNormOptions&)>& set, std::int64_t num_features = 2) {
  SyncBatchNormOptions options;
  set(options);
  const SyncBatchNorm layer(num_features, options);
}

TEST(BadInput, Options) {
  const auto none = [](SyncBatchNormOptions&) {};
  const std::string eps = "InvalidArgument: eps: ";
  const std::string momentum = "InvalidArgument: momentum: ";
  expect({
      {"no features", [&] { construct(none, 0); }, "InvalidArgument: num_features: 0, expected 1 to "},
      {"negative features", [&] { construct(none, -3); },
       "InvalidArgument: num_features: -3, expected 1 to "},
      {"too many features", [&] { construct(none, INT64_MAX); },
       "InvalidArgument: num_features: 9223372036854775807, "},
      {"eps < 0", [] { construct([](auto& o) { o.eps = -1e-5; }); },
       eps + "-1e-05, expected a finite number >= 0"},
      {"eps nan", [] { construct([](auto& o) { o.eps = kNan; }); }, eps + "nan, expected"},
      {"eps inf", [] { construct([](auto& o) { o.eps = kInf; }); }, eps + "inf, expected"},
      {"momentum < 0", [] { construct([](auto& o) { o.momentum = -0.1; }); },
       momentum + "-0.1, expected none or a number in [0, 1]"},
      {"momentum > 1", [] { construct([](auto& o) { o.momentum = 1.0000000000000002; }); },
       momentum + "1.0000000000000002, expected"},
      {"momentum nan", [] { construct([](auto& o) { o.momentum = kNan; }); }, momentum + "nan, expected"},
      {"dtype", [] { construct([](auto& o) { o.dtype = kNoDType; }); },
       "InvalidArgument: dtype: dtype 4, expected float16, "},
      {"affine_gradients",
       [] { construct([](auto& o) { o.affine_gradients = static_cast<AffineGradients>(2); }); },
       "InvalidArgument: affine_gradients: 2, expected local or group"},
      {"nonfinite", [] { construct([](auto& o) { o.nonfinite = static_cast<Nonfinite>(3); }); },
       "InvalidArgument: nonfinite: 3, expected propagate, skip_update or error"},
      {"activation", [] { construct([](auto& o) { o.activation = static_cast<Activation>(2); }); },
       "InvalidArgument: activation: 2, expected none or relu"},
      {"null group", [] { construct([](auto& o) { o.process_group = std::shared_ptr<Group>(); }); },
       "InvalidArgument: process_group: null, expected a group"},
      {"unknown group", [] { construct([](auto& o) { o.process_group = "nobody"; }); },
       "GroupError: group 'nobody'"},
  });
  run_ranks(1, [](int) {
    expect({{"unknown group in a world", [] { construct([](auto& o) { o.process_group = "nobody"; }); },
             "GroupError: "}});
  });
}

TEST(BadInput, TheEdgesAreAllowed) {
  EXPECT_EQ(outcome([] { construct([](auto& o) { o.eps = 0; }, 1); }), "ok");
  EXPECT_EQ(outcome([] { construct([](auto& o) { o.momentum = 0; }); }), "ok");
  EXPECT_EQ(outcome([] { construct([](auto& o) { o.momentum = 1; }); }), "ok");
  EXPECT_EQ(outcome([] { Shape({0, 1, 0}); }), "ok");
  EXPECT_EQ(outcome([] { Shape({std::int64_t{1} << 24, std::int64_t{1} << 24}); }), "ok");
}

TEST(BadInput, Shapes) {
  const std::string shape = "InvalidArgument: shape: ";
  const std::int64_t big = std::int64_t{1} << 32;
  expect({
      {"no dimensions", [] { Shape({}); }, shape + "(), expected at least two dimensions"},
      {"one dimension", [] { Shape({3}); }, shape + "(3), expected at least two dimensions"},
      {"negative samples",
       [] {
         Shape({-1, 2});
       },
       shape + "(-1, 2), expected sizes >= 0"},
      {"negative place",
       [] {
         Shape({1, 2, -5});
       },
       shape + "(1, 2, -5), expected sizes >= 0"},
      {"no channels",
       [] {
         Shape({1, 0});
       },
       shape + "(1, 0), expected C >= 1"},
      {"too many",
       [] {
         Shape({(std::int64_t{1} << 24) + 1, std::int64_t{1} << 24});
       },
       shape + "(16777217, 16777216), expected at most 2^48"},
      {"wraps to 0",
       [=] {
         Shape({big, big});
       },
       shape + "(4294967296, 4294967296), expected at most 2^48"},
      {"wraps though empty",
       [=] {
         Shape({0, big, big});
       },
       shape + "(0, 4294967296, 4294967296), expected at most 2^48"},
      {"largest",
       [] {
         Shape({INT64_MAX, INT64_MAX, INT64_MAX});
       },
       shape},
  });
}

TEST(BadInput, Views) {
  std::vector<float> data(5);
  expect({{"view",
           [&] {
             view(data, {2, 3});
           },
           "InvalidArgument: data: 5 elements, expected 6 for shape (2, 3)"},
          {"const view",
           [&] {
             view(std::as_const(data), {2, 2});
           },
           "InvalidArgument: data: 5 elements, expected 4"},
          {"span",
           [&] {
             view(std::span<float>(data), {1, 4});
           },
           "InvalidArgument: data: 5 elements, expected 4"}});
}

TEST(BadInput, Values) {
  SyncBatchNormOptions options;
  options.affine = false;
  SyncBatchNorm layer(2, options);
  expect(
      {{"unknown", [&] { layer.values<float>("gamma"); },
        "InvalidArgument: name: 'gamma', this layer has running_mean, running_var, num_batches_tracked"},
       {"absent", [&] { layer.values<float>("weight"); }, "InvalidArgument: name: 'weight', this layer has "},
       {"dtype", [&] { layer.values<double>("running_mean"); },
        "InvalidArgument: values<float64>: 'running_mean' is float32"},
       {"counter", [&] { layer.values<float>("num_batches_tracked"); },
        "InvalidArgument: values<float32>: 'num_batches_tracked' is int64"},
       {"no counter", [&] { layer.values<std::int64_t>("running_var"); },
        "InvalidArgument: values<int64>: 'running_var' is float32"}});
}

TEST(BadInput, IsaAndThreads) {
  const std::string active = active_isa();
  const int threads = get_num_threads();
  expect({{"isa", [] { force_isa("mmx"); }, "InvalidArgument: name: 'mmx', available here: "},
          {"empty isa", [] { force_isa(""); }, "InvalidArgument: name: '', available here: "},
          {"threads", [] { set_num_threads(-1); },
           "InvalidArgument: count: -1, expected 0, the default, to 4096"},
          {"too many threads", [] { set_num_threads(4097); }, "InvalidArgument: count: 4097, expected"}});
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
      {"SYNCBN_ISA", "mmx", "'mmx', available here: .*scalar"},
      {"SYNCBN_NUM_THREADS", "0", "'0', expected a number of threads in .1, 4096."},
      {"SYNCBN_NUM_THREADS", "-2", "'-2', expected"},
      {"SYNCBN_NUM_THREADS", "4097", "'4097', expected"},
      {"SYNCBN_NUM_THREADS", "99999999999", "'99999999999', expected"},
      {"SYNCBN_NUM_THREADS", "2x", "'2x', expected"},
      {"OMP_NUM_THREADS", "many", "'many', expected"},
  };
  for (const auto& [variable, value, text] : cases) {
    const std::string expected = std::string("InvalidArgument: ") + variable + ": " + text;
    EXPECT_EXIT(child(variable, value), ::testing::ExitedWithCode(0), expected + ".*; " + expected);
  }
  EXPECT_EXIT(child("OMP_NUM_THREADS", "2,1"), ::testing::ExitedWithCode(0), "ok; ok");
}

// One forward of a (2, 2, 2) batch, with one thing wrong in it. In training and in evaluation, by each
// function that makes it.
void expect_forward(const std::string& name, const std::function<void(ForwardTensors&, Call&)>& spoil,
                    const std::string& outcome) {
  for (const bool training : {true, false}) {
    SyncBatchNorm layer(2);
    layer.set_train(training);
    const Snapshot before = snapshot(layer);
    Call call({2, 2, 2}, std::vector<float>(8, 1));
    ForwardTensors tensors = call.forward_tensors();
    spoil(tensors, call);
    Saved saved;
    JointCall joint;
    const std::string text = "InvalidArgument: " + outcome;
    expect({{name, [&] { layer.forward(tensors); }, text},
            {name + ", saved", [&] { layer.forward(tensors, saved); }, text},
            {name + ", normalize", [&] { FrameworkHooks(layer).normalize(tensors, saved); }, text},
            {name + ", joint", [&] { joint.forward(layer, tensors, saved); }, text}});
    EXPECT_EQ(snapshot(layer), before) << name;
    EXPECT_EQ(saved.statistics, Saved::Statistics::none) << name;
    EXPECT_EQ(call.y, std::vector<float>(8)) << name;
  }
}

const void* odd_address(const std::vector<float>& data) {
  return reinterpret_cast<const char*>(data.data()) + 1;
}

TEST(BadInput, Forward) {
  using T = ForwardTensors&;
  expect_forward(
      "x channels",
      [](T t, Call&) {
        t.x.shape = {2, 4};
      },
      "x: shape (2, 4), expected C = num_features = 2");
  expect_forward(
      "x null", [](T t, Call&) { t.x.data = nullptr; }, "x: null data, expected 8 elements");
  expect_forward(
      "x dtype", [](T t, Call&) { t.x.dtype = kNoDType; }, "x: dtype 4, expected float16, ");
  expect_forward(
      "x layout", [](T t, Call&) { t.x.layout = static_cast<Layout>(2); },
      "x: layout 2, expected channels_first");
  expect_forward(
      "x aligned", [](T t, Call& c) { t.x.data = odd_address(c.x); }, "x: data at 0x");
  expect_forward(
      "y null", [](T t, Call&) { t.y.data = nullptr; }, "y: null data, expected 8 elements");
  expect_forward(
      "y shape",
      [](T t, Call&) {
        t.y.shape = {2, 2, 1};
      },
      "y: shape (2, 2, 1), expected x's (2, 2, 2)");
  expect_forward(
      "y dims",
      [](T t, Call&) {
        t.y.shape = {2, 2, 2, 1};
      },
      "y: shape (2, 2, 2, 1), expected x's (2, 2, 2)");
  expect_forward(
      "y dtype", [](T t, Call&) { t.y.dtype = DType::bfloat16; }, "y: bfloat16, expected x's float32");
  expect_forward(
      "y no dtype", [](T t, Call&) { t.y.dtype = kNoDType; }, "y: dtype 4, expected");
  expect_forward(
      "y layout", [](T t, Call&) { t.y.layout = Layout::channels_last; },
      "y: channels_last, expected x's channels_first");
  expect_forward(
      "residual dtype",
      [](T t, Call& c) {
        t.residual = t.x;
        t.residual->data = c.dy.data();
        t.residual->dtype = DType::float16;
      },
      "residual: float16, expected x's float32");
  expect_forward(
      "residual shape",
      [](T t, Call& c) {
        t.residual = view(std::as_const(c.dy), {4, 2});
      },
      "residual: shape (4, 2), expected x's (2, 2, 2)");
  expect_forward(
      "residual null",
      [](T t, Call&) {
        t.residual = t.x;
        t.residual->data = nullptr;
      },
      "residual: null data, expected 8 elements");
  expect_forward(
      "residual layout",
      [](T t, Call&) {
        t.residual = t.x;
        t.residual->layout = Layout::channels_last;
      },
      "residual: channels_last, expected x's channels_first");
}

TEST(BadInput, ForwardOverlap) {
  using T = ForwardTensors&;
  expect_forward(
      "in place", [](T t, Call& c) { t.y.data = c.x.data(); }, "y: 32 bytes at ");
  std::vector<float> room(12);
  for (const int shift : {-3, 0, 1}) {
    expect_forward(
        "part of x",
        [&](T t, Call&) {
          t.x.data = room.data() + 3;
          t.y.data = room.data() + 3 + shift;
        },
        "y: 32 bytes at ");
  }
  expect_forward(
      "residual",
      [&](T t, Call&) {
        t.residual = t.x;
        t.residual->data = room.data() + 4;
        t.y.data = room.data();
      },
      "y: 32 bytes at ");
}

// One backward with one thing wrong in it, after a training forward and after one in evaluation, by each
// function that makes it.
void expect_backward(const std::string& name, const std::function<void(BackwardTensors&, Call&)>& spoil,
                     const std::string& outcome, Activation activation = Activation::none) {
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
    const std::string text = "InvalidArgument: " + outcome;
    expect({{name, [&] { layer.backward(tensors); }, text},
            {name + ", saved", [&] { layer.backward(layer.saved(), tensors); }, text},
            {name + ", sums", [&] { FrameworkHooks(layer).backward(layer.saved(), tensors, sums); }, text},
            {name + ", joint", [&] { joint.backward(layer, layer.saved(), tensors); }, text}});
    EXPECT_EQ(snapshot(layer), before) << name;
    EXPECT_TRUE(sums.a.empty()) << name;
    EXPECT_EQ(call.dx, std::vector<float>(8)) << name;
  }
}

TEST(BadInput, Backward) {
  using T = BackwardTensors&;
  expect_backward(
      "x channels",
      [](T t, Call&) {
        t.x.shape = {2, 4};
      },
      "x: shape (2, 4), expected C = num_features = 2");
  expect_backward(
      "x null", [](T t, Call&) { t.x.data = nullptr; }, "x: null data, expected 8 elements");
  expect_backward(
      "dy shape",
      [](T t, Call&) {
        t.dy.shape = {4, 2};
      },
      "dy: shape (4, 2), expected x's (2, 2, 2)");
  expect_backward(
      "dy dtype", [](T t, Call&) { t.dy.dtype = DType::bfloat16; }, "dy: bfloat16, expected x's float32");
  expect_backward(
      "dy layout", [](T t, Call&) { t.dy.layout = Layout::channels_last; },
      "dy: channels_last, expected x's channels_first");
  expect_backward(
      "dy null", [](T t, Call&) { t.dy.data = nullptr; }, "dy: null data, expected 8 elements");
  expect_backward(
      "dy aligned", [](T t, Call& c) { t.dy.data = odd_address(c.dy); }, "dy: data at 0x");
  expect_backward(
      "dx shape",
      [](T t, Call&) {
        t.dx->shape = {4, 2};
      },
      "dx: shape (4, 2), expected x's (2, 2, 2)");
  expect_backward(
      "dx dtype", [](T t, Call&) { t.dx->dtype = DType::float16; }, "dx: float16, expected x's float32");
  expect_backward(
      "dx null", [](T t, Call&) { t.dx->data = nullptr; }, "dx: null data, expected 8 elements");
  expect_backward(
      "y missing", [](T t, Call&) { t.y.reset(); }, "y: none, expected the forward's output",
      Activation::relu);
  expect_backward(
      "y dtype", [](T t, Call&) { t.y->dtype = DType::float64; }, "y: ", Activation::relu);
  expect_backward(
      "y shape",
      [](T t, Call&) {
        t.y->shape = {1, 2, 4};
      },
      "y: shape (1, 2, 4), expected x's (2, 2, 2)", Activation::relu);
  expect_backward(
      "d_residual shape",
      [](T t, Call& c) {
        t.d_residual = view(c.y, {4, 2});
      },
      "d_residual: shape (4, 2), expected x's (2, 2, 2)");
  std::vector<float> more(10);
  expect_backward(
      "more elements than the forward",
      [&](T t, Call&) {
        const Shape shape{5, 2};
        t = {view(std::as_const(more), shape), view(std::as_const(more), shape), std::nullopt, std::nullopt,
             std::nullopt};
      },
      "x: 5 elements per channel, expected ");
}

// In place only dx = dy.
TEST(BadInput, BackwardOverlap) {
  using T = BackwardTensors&;
  expect_backward(
      "dx is x", [](T t, Call& c) { t.dx->data = c.x.data(); }, "dx: 32 bytes at ");
  expect_backward(
      "dx is y", [](T t, Call& c) { t.dx->data = c.y.data(); }, "dx: 32 bytes at ");
  std::vector<float> room(12, 1.0F);
  expect_backward(
      "dx is part of dy",
      [&](T t, Call&) {
        t.dy.data = room.data();
        t.dx->data = room.data() + 1;
      },
      "dx: 32 bytes at ");
  expect_backward(
      "d_residual is dy",
      [](T t, Call& c) {
        t.d_residual = t.dx;
        t.d_residual->data = c.dy.data();
      },
      "d_residual: 32 bytes at ");
  expect_backward(
      "d_residual is x",
      [](T t, Call& c) {
        t.d_residual = t.dx;
        t.d_residual->data = c.x.data();
      },
      "d_residual: 32 bytes at ");
  expect_backward(
      "d_residual is dx", [](T t, Call&) { t.d_residual = t.dx; }, "d_residual: 32 bytes at ");
}

// A double backward of everything, with one thing wrong in it.
struct DoubleCall {
  std::vector<float> u = std::vector<float>(8, 1), t = u, d_dy = u, d_x = u;
  std::vector<float> dd_weight{1, 2}, dd_bias{3, 4}, d_weight{5, 6};
};

void expect_double_backward(
    const std::string& name,
    const std::function<void(DoubleBackwardTensors&, Call&, DoubleCall&, Saved&, BackwardSums&)>& spoil,
    const std::string& outcome) {
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
    const auto read = [&](const std::vector<float>& values) { return view(values, call.shape); };
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
    expect({{name, [&] { FrameworkHooks(layer).double_backward(saved, sums, tensors); }, outcome}});
    EXPECT_EQ(snapshot(layer), before) << name;
    if (outcome == "ok") continue;
    EXPECT_EQ(more.d_dy, std::vector<float>(8, 1)) << name;
    EXPECT_EQ(more.d_x, std::vector<float>(8, 1)) << name;
    EXPECT_EQ(more.d_weight, (std::vector<float>{5, 6})) << name;
  }
}

TEST(BadInput, DoubleBackward) {
  using T = DoubleBackwardTensors&;
  using D = DoubleCall&;
  const auto refused = [](const std::string& name, const std::function<void(T, Call&, D)>& spoil,
                          const std::string& outcome) {
    expect_double_backward(
        name, [&](T t, Call& c, D d, Saved&, BackwardSums&) { spoil(t, c, d); },
        "InvalidArgument: " + outcome);
  };
  refused(
      "x channels",
      [](T t, Call&, D) {
        t.x.shape = {2, 4};
      },
      "x: shape (2, 4), expected C = num_features = 2");
  refused(
      "dy null", [](T t, Call&, D) { t.dy.data = nullptr; }, "dy: null data, expected 8 elements");
  refused(
      "y missing", [](T t, Call&, D) { t.y.reset(); }, "y: none, expected the forward's output");
  refused(
      "ddx dtype", [](T t, Call&, D) { t.ddx->dtype = DType::float16; },
      "ddx: float16, expected x's float32");
  refused(
      "dd_residual layout", [](T t, Call&, D) { t.dd_residual->layout = Layout::channels_last; },
      "dd_residual: channels_last, expected x's channels_first");
  refused(
      "d_dy shape",
      [](T t, Call&, D) {
        t.d_dy->shape = {4, 2};
      },
      "d_dy: shape (4, 2), expected x's (2, 2, 2)");
  refused(
      "d_x null", [](T t, Call&, D) { t.d_x->data = nullptr; }, "d_x: null data, expected 8 elements");
  refused(
      "dd_weight aligned", [](T t, Call&, D d) { t.dd_weight = odd_address(d.dd_weight); },
      "dd_weight: data at 0x");
  refused(
      "dd_bias aligned", [](T t, Call&, D d) { t.dd_bias = odd_address(d.dd_bias); }, "dd_bias: data at 0x");
  refused(
      "d_weight aligned",
      [](T t, Call&, D d) { t.d_weight = reinterpret_cast<char*>(d.d_weight.data()) + 1; },
      "d_weight: data at 0x");
  // Outputs overlap nothing, but d_weight may be dd_weight, which is read before.
  refused(
      "d_dy is dy", [](T t, Call& c, D) { t.d_dy->data = c.dy.data(); }, "d_dy: 32 bytes at ");
  refused(
      "d_x is ddx", [](T t, Call&, D d) { t.d_x->data = d.u.data(); }, "d_x: 32 bytes at ");
  refused(
      "d_x is dd_residual", [](T t, Call&, D d) { t.d_x->data = d.t.data(); }, "d_x: 32 bytes at ");
  refused(
      "d_x is d_dy", [](T t, Call&, D d) { t.d_x->data = d.d_dy.data(); }, "d_x: 32 bytes at ");
  refused(
      "d_weight in x", [](T t, Call& c, D) { t.d_weight = c.x.data() + 6; }, "d_weight: 8 bytes at ");
  refused(
      "d_weight in d_x", [](T t, Call&, D d) { t.d_weight = d.d_x.data() + 3; }, "d_weight: 8 bytes at ");
  expect_double_backward(
      "d_weight is dd_weight",
      [](T t, Call&, D d, Saved&, BackwardSums&) { t.d_weight = d.dd_weight.data(); }, "ok");
}

TEST(BadInput, WhatADoubleBackwardWasLeft) {
  using T = DoubleBackwardTensors&;
  const auto refused = [](const std::string& name, const std::function<void(Saved&, BackwardSums&)>& spoil,
                          const std::string& outcome) {
    expect_double_backward(
        name, [&](T, Call&, DoubleCall&, Saved& saved, BackwardSums& sums) { spoil(saved, sums); },
        "InvalidArgument: " + outcome);
  };
  refused(
      "no forward", [](Saved& saved, BackwardSums&) { saved = {}; },
      "backward: no forward was made before it");
  refused(
      "another layer's", [](Saved& saved, BackwardSums&) { saved.var.reset(3, kHostMemory); },
      "saved: 3 channels, expected num_features = 2");
  refused(
      "fewer elements than the call", [](Saved& saved, BackwardSums&) { saved.count = 3; },
      "x: 4 elements per channel, expected ");
  refused(
      "no sums", [](Saved&, BackwardSums& sums) { sums = {}; },
      "sums: 0 channels, expected num_features = 2");
  refused(
      "sums of another layer", [](Saved&, BackwardSums& sums) { sums.own_b.reset(1, kHostMemory); },
      "sums: 1 channels, expected num_features = 2");
}

TEST(BadInput, TrackedOfAnotherLayer) {
  SyncBatchNorm layer(2), other(3);
  Call call({2, 3}, {1, 2, 3, 4, 5, 6});
  call.forward(other);
  const Snapshot before = snapshot(layer);
  EXPECT_EQ(outcome([&] { FrameworkHooks(layer).track(other.saved()); }),
            "InvalidArgument: saved: 3 channels, expected num_features = 2");
  EXPECT_EQ(snapshot(layer), before);
  FrameworkHooks(layer).track({});  // of no forward: nothing
  EXPECT_EQ(snapshot(layer), before);
}

TEST(BadInput, FailingAloneBreaksNothing) {
  SyncBatchNorm layer(2);
  Call call({2, 2}, {1, 2, 3, 5});
  FrameworkHooks(layer).fail("nobody hears it");
  call.forward(layer);
  FrameworkHooks(layer).fail(layer.saved(), "nor this");
  EXPECT_EQ(outcome([&] { call.backward(layer); }), "ok");
}

// Memory that would go on at address 0, where sums of addresses wrap.
TEST(BadInput, BeyondTheAddressSpace) {
  float* const last = reinterpret_cast<float*>(UINTPTR_MAX - 15);
  const std::string text = "32 bytes at 0xfffffffffffffff0, expected memory within the address space";
  expect_forward(
      "x", [&](ForwardTensors& t, Call&) { t.x.data = last; }, "x: " + text);
  expect_forward(
      "y", [&](ForwardTensors& t, Call&) { t.y.data = last; }, "y: " + text);
  expect_backward(
      "dx", [&](BackwardTensors& t, Call&) { t.dx->data = last; }, "dx: " + text);
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
    text += "; " + SyncBatchNorm(1, options).name();
    text += "; " + outcome([&] { const SyncBatchNorm layer(most + 1, options); });
    std::fprintf(stderr, "%s\n", text.c_str());
    std::exit(0);
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(0),
              "std::bad_alloc; #1; InvalidArgument: num_features: 2147483649, expected 1 to 2147483648");
}

TEST(BadInput, AnEnginesShortBuffer) {
  SyncBatchNormOptions options;
  options.process_group = make_group("own", std::make_unique<ShortBuffer>());
  SyncBatchNorm layer(2, options);
  const Snapshot before = snapshot(layer);
  Call call({2, 2}, {1, 2, 3, 5});
  EXPECT_EQ(
      outcome([&] { call.forward(layer); }),
      "PeerError: group 'own', call 1, forward of layer '#1', on rank 0: the engine gave a buffer of 75 "
      "words, asked for 76");
  EXPECT_EQ(snapshot(layer), before);
}

TEST(BadInput, EmptyTensorsMayBeNull) {
  SyncBatchNorm layer(2);
  const Shape shape{0, 2, 3};
  const TensorView none{nullptr, DType::float32, shape};
  EXPECT_EQ(outcome([&] {
              layer.forward(none, none);
              layer.backward(none, none, none);
            }),
            "ok");
}

}  // namespace
}  // namespace syncbn::testing
