// SPDX-License-Identifier: Apache-2.0

// double_backward against difference quotients of backward, over ranks with uneven and empty shares; its bits
// for every split; what it refuses.
//
// control: d_weight from the rank's own U and V with the group's A and B passes DifferenceQuotients and fails
// TheWeightsGradientIsEachRanksOwn; v·A left out of d_x, the mask left out of d_dy, and sums kept in
// evaluation fail DifferenceQuotients; sums in double fail SplitInvariance.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/data.h"
#include "layer/calls.h"
#include "syncbn/framework.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

constexpr std::int64_t kChannels = 2;
constexpr std::int64_t kSpatial = 2;

enum class Mode { training, running, local_batch };

struct Scene {
  std::vector<std::int64_t> shares;  // samples of each rank
  Mode mode = Mode::training;
  Activation activation = Activation::none;
  bool residual = false;
  Layout layout = Layout::channels_first;
};

// Everything a function of backward's results is made of, of all ranks one after the other.
template <class T>
struct Problem {
  DeviceVector<T> x, dy, residual;  // inputs
  DeviceVector<T> u, t;             // the function's gradients with respect to dx and d_residual
  DeviceVector<double> weight;      // (C,)
  DeviceVector<double> bias;        // (C,)
  DeviceVector<double> v, z;        // (ranks, C): with respect to weight_grad and bias_grad
};

template <class T>
Problem<T> draw_problem(const Scene& scene, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  const auto some = [&](std::int64_t count) {
    DeviceVector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = T(normal(random));
    return values;
  };
  const auto doubles = [&](std::int64_t count) {
    DeviceVector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) value = normal(random);
    return values;
  };
  const std::int64_t samples = std::accumulate(scene.shares.begin(), scene.shares.end(), std::int64_t{0});
  const std::int64_t n = samples * kChannels * kSpatial;
  const auto ranks = static_cast<std::int64_t>(scene.shares.size());
  return {some(n),
          some(n),
          some(n),
          some(n),
          some(n),
          doubles(kChannels),
          doubles(kChannels),
          doubles(ranks * kChannels),
          doubles(ranks * kChannels)};
}

// A rank's part of a tensor of all ranks.
template <class T>
struct Part {
  std::size_t begin, size;
  DeviceVector<T> operator()(const DeviceVector<T>& all) const {
    return {all.begin() + static_cast<std::ptrdiff_t>(begin),
            all.begin() + static_cast<std::ptrdiff_t>(begin + size)};
  }
};

template <class T>
Part<T> part_of(const Scene& scene, std::size_t rank) {
  const auto begin = std::accumulate(
      scene.shares.begin(), scene.shares.begin() + static_cast<std::ptrdiff_t>(rank), std::int64_t{0});
  constexpr std::int64_t kSample = kChannels * kSpatial;
  return {static_cast<std::size_t>(begin * kSample), static_cast<std::size_t>(scene.shares[rank] * kSample)};
}

// One rank's layer after its forward and backward.
template <class T>
struct Rank {
  SyncBatchNorm layer;
  Shape shape;
  Layout layout;
  DeviceVector<T> x, dy, y, dx, d_residual;
  Saved saved;
  BackwardSums sums;

  Rank(const Scene& scene, const Problem<T>& p, std::size_t rank)
      : layer(kChannels, options_of(scene)),
        shape{scene.shares[rank], kChannels, kSpatial},
        layout(scene.layout),
        x(part_of<T>(scene, rank)(p.x)),
        dy(part_of<T>(scene, rank)(p.dy)),
        y(x.size()),
        dx(x.size()),
        d_residual(x.size()) {
    for (std::size_t c = 0; c < kChannels; ++c) {
      layer.values<double>("weight")[c] = p.weight[c];
      layer.values<double>("bias")[c] = p.bias[c];
      if (scene.mode == Mode::local_batch) continue;
      layer.values<double>("running_mean")[c] = 0.25;
      layer.values<double>("running_var")[c] = 1.5;
    }
    layer.set_train(scene.mode == Mode::training);
    const DeviceVector<T> residual = part_of<T>(scene, rank)(p.residual);
    ForwardTensors forward{read(x), write(y), std::nullopt};
    if (scene.residual) forward.residual = read(residual);
    FrameworkHooks(layer).normalize(forward, saved);
    FrameworkHooks(layer).backward(saved, {read(dy), read(x), read(y), write(dx), write(d_residual)}, sums);
  }

  static SyncBatchNormOptions options_of(const Scene& scene) {
    SyncBatchNormOptions options;
    options.dtype = DType::float64;
    options.activation = scene.activation;
    options.track_running_stats = scene.mode != Mode::local_batch;
    return options;
  }
  ConstTensorView read(const DeviceVector<T>& values) const { return view(values, shape, layout); }
  TensorView write(DeviceVector<T>& values) const { return view(values, shape, layout); }
};

double dot(const DeviceVector<double>& a, const DeviceVector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// The function: Σ u·dx + Σ t·d_residual + Σ over the ranks of v·weight_grad + z·bias_grad.
double function(const Scene& scene, const Problem<double>& p) {
  DeviceVector<double> parts(scene.shares.size());
  run_ranks(static_cast<int>(parts.size()), [&](int r) {
    const auto rank = static_cast<std::size_t>(r);
    Rank<double> made(scene, p, rank);
    const auto part = part_of<double>(scene, rank);
    double sum = dot(part(p.u), made.dx);
    if (scene.residual) sum += dot(part(p.t), made.d_residual);
    for (std::size_t c = 0; c < kChannels; ++c) {
      sum += p.v[rank * kChannels + c] * made.layer.template values<double>("weight_grad")[c];
      sum += p.z[rank * kChannels + c] * made.layer.template values<double>("bias_grad")[c];
    }
    parts[rank] = sum;
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

template <class T>
struct Gradients {
  DeviceVector<T> d_dy, d_x;
  DeviceVector<double> d_weight;
};

// By the library; without weight and bias gradients where they are not wanted.
template <class T>
Gradients<T> gradients(const Scene& scene, const Problem<T>& p, bool affine = true) {
  Gradients<T> all{DeviceVector<T>(p.x.size()), DeviceVector<T>(p.x.size()),
                   DeviceVector<double>(p.v.size())};
  run_ranks(static_cast<int>(scene.shares.size()), [&](int r) {
    const auto rank = static_cast<std::size_t>(r);
    Rank<T> made(scene, p, rank);
    const auto part = part_of<T>(scene, rank);
    const DeviceVector<T> u = part(p.u), t = part(p.t);
    DeviceVector<T> d_dy(u.size()), d_x(u.size());
    DoubleBackwardTensors tensors{made.read(made.dy), made.read(made.x), made.read(made.y), made.read(u), {},
                                  made.write(d_dy),   made.write(d_x)};
    if (scene.residual) tensors.dd_residual = made.read(t);
    if (affine) {
      tensors.dd_weight = &p.v[rank * kChannels];
      tensors.dd_bias = &p.z[rank * kChannels];
    }
    tensors.d_weight = &all.d_weight[rank * kChannels];
    FrameworkHooks(made.layer).double_backward(made.saved, made.sums, tensors);
    std::copy(d_dy.begin(), d_dy.end(), all.d_dy.begin() + static_cast<std::ptrdiff_t>(part.begin));
    std::copy(d_x.begin(), d_x.end(), all.d_x.begin() + static_cast<std::ptrdiff_t>(part.begin));
  });
  return all;
}

void expect_quotients(const Scene& scene) {
  Problem<double> p = draw_problem<double>(scene, 7);
  const Gradients<double> made = gradients(scene, p);
  const auto expect = [&](const char* name, DeviceVector<double> Problem<double>::*input,
                          const DeviceVector<double>& gradient) {
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      constexpr double kStep = 1e-5;
      const double value = (p.*input)[i];
      (p.*input)[i] = value + kStep;
      const double above = function(scene, p);
      (p.*input)[i] = value - kStep;
      const double below = function(scene, p);
      (p.*input)[i] = value;
      const double quotient = (above - below) / (2 * kStep);
      EXPECT_NEAR(gradient[i], quotient, 1e-6 * std::max(1.0, std::abs(quotient))) << name << ' ' << i;
    }
  };
  expect("dy", &Problem<double>::dy, made.d_dy);
  expect("x", &Problem<double>::x, made.d_x);
  DeviceVector<double> d_weight(kChannels);  // a data-parallel program adds the ranks' parts
  for (std::size_t i = 0; i < made.d_weight.size(); ++i) d_weight[i % kChannels] += made.d_weight[i];
  expect("weight", &Problem<double>::weight, d_weight);
}

TEST(DoubleBackward, DifferenceQuotients) {
  for (const auto& shares : {std::vector<std::int64_t>{5}, {2, 0, 4}}) {
    for (const Activation activation : {Activation::none, Activation::relu}) {
      for (const bool residual : {false, true}) {
        for (const Mode mode : {Mode::training, Mode::running, Mode::local_batch}) {
          SCOPED_TRACE(std::to_string(shares.size()) + " ranks, activation " +
                       std::to_string(static_cast<int>(activation)) + (residual ? ", residual" : "") +
                       ", mode " + std::to_string(static_cast<int>(mode)));
          expect_quotients({shares, mode, activation, residual});
        }
      }
    }
  }
}

// Each rank's own part: as if each had a weight of its own, which dx of all ranks then depends on. In loops.
double function_of_own_weights(const Scene& scene, const Problem<double>& p,
                               const DeviceVector<double>& weight) {
  struct Element {
    std::size_t rank, channel, i;
  };
  std::vector<Element> elements;
  for (std::size_t rank = 0; rank < scene.shares.size(); ++rank) {
    const auto part = part_of<double>(scene, rank);
    for (std::size_t i = part.begin; i < part.begin + part.size; ++i)
      elements.push_back({rank, i / kSpatial % kChannels, i});
  }
  double result = 0;
  for (std::size_t c = 0; c < kChannels; ++c) {
    double n = 0, sum = 0, squares = 0, a = 0, b = 0;
    const auto each = [&](const auto& body) {
      for (const Element& e : elements) {
        if (e.channel == c) body(e, weight[e.rank * kChannels + c]);
      }
    };
    each([&](const Element& e, double) { n += 1, sum += p.x[e.i]; });
    const double mean = sum / n;
    each([&](const Element& e, double) { squares += (p.x[e.i] - mean) * (p.x[e.i] - mean); });
    const double r = 1 / std::sqrt(squares / n + 1e-5);
    each([&](const Element& e, double w) { a += w * p.dy[e.i], b += w * p.dy[e.i] * (p.x[e.i] - mean); });
    each([&](const Element& e, double w) {
      const double m = p.x[e.i] - mean;
      result += p.u[e.i] * r * (w * p.dy[e.i] - a / n - m * r * r * b / n);
      result += p.v[e.rank * kChannels + c] * p.dy[e.i] * m * r + p.z[e.rank * kChannels + c] * p.dy[e.i];
    });
  }
  return result;
}

TEST(DoubleBackward, TheWeightsGradientIsEachRanksOwn) {
  const Scene scene{{2, 0, 4}};
  const Problem<double> p = draw_problem<double>(scene, 13);
  const Gradients<double> made = gradients(scene, p);
  DeviceVector<double> weight;
  for (int rank = 0; rank < 3; ++rank) weight.insert(weight.end(), p.weight.begin(), p.weight.end());
  EXPECT_NEAR(function_of_own_weights(scene, p, weight), function(scene, p), 1e-12);
  for (std::size_t i = 0; i < weight.size(); ++i) {
    DeviceVector<double> more = weight, less = weight;
    more[i] += 0.5;  // the function is linear in it
    less[i] -= 0.5;
    EXPECT_NEAR(made.d_weight[i],
                function_of_own_weights(scene, p, more) - function_of_own_weights(scene, p, less), 1e-12)
        << i;
  }
}

template <class T>
void expect_same_bits() {
  const Scene alone{{6}};
  const Problem<T> p = draw_problem<T>(alone, 11);
  const Gradients<T> whole = gradients(alone, p, false);
  for (const auto& shares : {std::vector<std::int64_t>{1, 5}, {0, 2, 4}, {1, 1, 1, 1, 1, 1}}) {
    Problem<T> spread = p;
    const auto ranks = shares.size();
    spread.v.resize(ranks * kChannels);
    spread.z.resize(ranks * kChannels);
    const Gradients<T> parts = gradients({shares}, spread, false);
    EXPECT_EQ(kernels::bits(parts.d_dy), kernels::bits(whole.d_dy));
    EXPECT_EQ(kernels::bits(parts.d_x), kernels::bits(whole.d_x));
  }
}

TEST(DoubleBackward, SplitInvarianceFloat32) { expect_same_bits<float>(); }
TEST(DoubleBackward, SplitInvarianceBFloat16) { expect_same_bits<bfloat16>(); }
TEST(DoubleBackward, SplitInvarianceFloat64) { expect_same_bits<double>(); }

TEST(DoubleBackward, LayoutChangesNothing) {
  const Scene first{{3}, Mode::training, Activation::relu};
  Scene last = first;
  last.layout = Layout::channels_last;
  const auto reordered = [](const DeviceVector<float>& values) {  // (N, C, S) to (N, S, C)
    DeviceVector<float> result;
    for (std::size_t n = 0; n < values.size() / (kChannels * kSpatial); ++n) {
      for (std::size_t s = 0; s < kSpatial; ++s) {
        for (std::size_t c = 0; c < kChannels; ++c)
          result.push_back(values[(n * kChannels + c) * kSpatial + s]);
      }
    }
    return result;
  };
  const Problem<float> p = draw_problem<float>(first, 3);
  Problem<float> q = p;
  for (auto* values : {&q.x, &q.dy, &q.u}) *values = reordered(*values);
  const Gradients<float> a = gradients(first, p), b = gradients(last, q);
  EXPECT_EQ(kernels::bits(reordered(a.d_dy)), kernels::bits(b.d_dy));
  EXPECT_EQ(kernels::bits(reordered(a.d_x)), kernels::bits(b.d_x));
  EXPECT_EQ(a.d_weight, b.d_weight);
}

TEST(DoubleBackward, AbsentGradientsAreZeros) {
  const Scene scene{{2, 3}};
  Problem<double> p = draw_problem<double>(scene, 5);
  std::ranges::fill(p.v, 0.0);
  std::ranges::fill(p.z, 0.0);
  const Gradients<double> zeros = gradients(scene, p), absent = gradients(scene, p, false);
  EXPECT_EQ(zeros.d_x, absent.d_x);
  EXPECT_EQ(zeros.d_dy, absent.d_dy);
  EXPECT_EQ(zeros.d_weight, absent.d_weight);
}

TEST(DoubleBackward, AnotherCallOnAPeerIsAMismatch) {
  const Scene scene{{2, 3}};
  const Problem<double> p = draw_problem<double>(scene, 5);
  for (const std::string& text : outcomes(2, [&](int rank) {
         Rank<double> made(scene, p, static_cast<std::size_t>(rank));
         if (rank == 0) {
           FrameworkHooks(made.layer)
               .double_backward(made.saved, made.sums,
                                {made.read(made.dy), made.read(made.x), {}, {}, {}, {}, {}});
         } else {
           made.layer.backward(made.saved, {made.read(made.dy), made.read(made.x), {}, {}, {}});
         }
       })) {
    expect_error<MismatchError>(text, {"rank 0 ... double backward ... rank 1 ... backward"});
  }
}

// A rank without a forward tells the peers, who wait for its double backward.
TEST(DoubleBackward, WithoutAForwardThePeersAreTold) {
  const Scene scene{{2, 3}};
  const Problem<double> p = draw_problem<double>(scene, 5);
  const auto seen = outcomes(2, [&](int rank) {
    Rank<double> made(scene, p, static_cast<std::size_t>(rank));
    FrameworkHooks(made.layer)
        .double_backward(rank == 0 ? Saved{} : made.saved, made.sums,
                         {made.read(made.dy), made.read(made.x), {}, {}, {}, {}, {}});
  });
  expect_error<InvalidArgument>(seen[0], {"backward", "no forward"});
  expect_error<PeerError>(seen[1], {"rank 0 ... no forward"});
}

TEST(DoubleBackward, RefusesGradientsOfTheGroup) {
  const Scene scene{{2}};
  const Problem<double> p = draw_problem<double>(scene, 5);
  Rank<double> made(scene, p, 0);
  const DoubleBackwardTensors tensors{made.read(made.dy), made.read(made.x), {}, {}, {}, {}, {}};
  SyncBatchNormOptions options = Rank<double>::options_of(scene);
  options.affine_gradients = AffineGradients::group;
  SyncBatchNorm group(kChannels, options);
  EXPECT_THROW(FrameworkHooks(group).double_backward(made.saved, made.sums, tensors), InvalidArgument);
}

// normalize and track are forward's two steps.
TEST(TwoSteps, NormalizeMovesNothingAndTrackMovesOnce) {
  const Scene scene{{4}};
  const Problem<double> p = draw_problem<double>(scene, 9);
  SyncBatchNorm whole(kChannels, Rank<double>::options_of(scene)),
      steps(kChannels, Rank<double>::options_of(scene));
  const Shape shape{4, kChannels, kSpatial};
  DeviceVector<double> y(p.x.size()), again(p.x.size());
  Saved saved;
  whole.forward({view(p.x, shape), view(y, shape), {}}, saved);
  FrameworkHooks(steps).normalize({view(p.x, shape), view(again, shape), {}}, saved);
  EXPECT_EQ(steps.values<std::int64_t>("num_batches_tracked")[0], 0);
  EXPECT_EQ(steps.values<double>("running_mean")[0], 0);
  FrameworkHooks(steps).track(saved);
  EXPECT_EQ(y, again);
  EXPECT_EQ(steps.values<std::int64_t>("num_batches_tracked")[0], 1);
  for (const char* name : {"running_mean", "running_var"}) {
    EXPECT_TRUE(std::ranges::equal(steps.values<double>(name), whole.values<double>(name))) << name;
    EXPECT_NE(steps.values<double>(name)[0], name == std::string("running_var") ? 1.0 : 0.0);
  }
  steps.set_train(false);
  FrameworkHooks(steps).normalize({view(p.x, shape), view(again, shape), {}}, saved);
  FrameworkHooks(steps).track(saved);  // of an evaluation: nothing
  EXPECT_EQ(steps.values<std::int64_t>("num_batches_tracked")[0], 1);
}

// A rank that can't make its call tells the others.
TEST(TwoSteps, FailReachesThePeers) {
  const auto seen = outcomes(2, [&](int rank) {
    SyncBatchNorm layer(kChannels);
    if (rank == 0) return FrameworkHooks(layer).fail(Direction::forward, "input of rank 0 is no tensor");
    const Shape shape{2, kChannels, kSpatial};
    DeviceVector<float> x(8, 1.0F), y(8);
    layer.forward(view<float>(x, shape), view(y, shape));
  });
  expect_error<PeerError>(seen[1], {"input of rank 0 is no tensor"});
}

// Whether peers wait for a backward is its forward's affair: the mode may have changed in between.
TEST(TwoSteps, FailOfABackwardIsOfItsForwardsMode) {
  const auto seen = outcomes(2, [&](int rank) {
    SyncBatchNorm layer(kChannels);
    const Shape shape{2, kChannels, kSpatial};
    DeviceVector<float> x(8, 1.0F), y(8), dx(8);
    const ForwardTensors forward{view<float>(x, shape), view(y, shape), {}};
    Saved of_training, of_evaluation;
    layer.forward(forward, of_training);
    layer.set_train(false);
    layer.forward(forward, of_evaluation);
    layer.set_train();
    EXPECT_FALSE(FrameworkHooks(layer).is_collective(of_evaluation));
    EXPECT_TRUE(FrameworkHooks(layer).is_collective(of_training));
    layer.forward(forward, of_training);  // the group is whole
    layer.set_train(false);
    if (rank == 0) return FrameworkHooks(layer).fail(Direction::backward, "dy of rank 0 is no tensor");
    layer.backward(of_training, {view<float>(y, shape), view<float>(x, shape), {}, view(dx, shape), {}});
  });
  expect_error<PeerError>(seen[1], {"rank 0 ... dy of rank 0 is no tensor"});
}

}  // namespace
}  // namespace syncbn::testing
