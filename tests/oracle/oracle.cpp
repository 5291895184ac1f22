// SPDX-License-Identifier: Apache-2.0
#include "oracle/oracle.h"

#include <cmath>

#include "oracle/sums.h"

namespace oracle {
namespace {

Type compute_type(Type input) { return input == Type::float64 ? Type::float64 : Type::float32; }

// IEEE operations of the compute type on values that it has.
double subtract(Type compute, double a, double b) {
  if (compute == Type::float64) return a - b;
  return static_cast<double>(static_cast<float>(a) - static_cast<float>(b));
}
double add(Type compute, double a, double b) { return subtract(compute, a, -b); }
double multiply(Type compute, double a, double b) {
  if (compute == Type::float64) return a * b;
  return static_cast<double>(static_cast<float>(a) * static_cast<float>(b));
}

bool passes(double y) { return y > 0 || std::isnan(y); }

double inverse_deviation(double var, double eps) {
  const double shifted = var + eps;
  const double root = std::sqrt(shifted);
  return 1.0 / root;
}

double parameter(const std::vector<double>& values, std::size_t channel, double absent) {
  return values.empty() ? absent : values[channel];
}

// One channel of a call, and the coefficients that its statistics give.
struct Channel {
  std::size_t index;
  double mean, invstd;
  double k64, mean_hi, mean_lo, k, shift;
};

Channel coefficients(Type compute, const State& state, std::size_t index, double mean, double invstd) {
  Channel c{};
  c.index = index;
  c.mean = mean;
  c.invstd = invstd;
  c.mean_hi = round_to(compute, mean);
  c.mean_lo = mean - c.mean_hi;
  c.k64 = parameter(state.weight, index, 1.0) * invstd;
  c.k = round_to(compute, c.k64);
  const double correction = c.mean_lo * c.k64;
  c.shift = round_to(compute, parameter(state.bias, index, 0.0) - correction);
  return c;
}

// body(element) for the elements of one channel.
template <class Body>
void for_each(const Share& share, std::int64_t channels, std::size_t channel, const Body& body) {
  for (std::int64_t n = 0; n < share.samples; ++n) {
    for (std::int64_t s = 0; s < share.places; ++s) {
      body(static_cast<std::size_t>((n * channels + static_cast<std::int64_t>(channel)) * share.places + s));
    }
  }
}

void forward(const Settings& settings, const Channel& c, std::int64_t channels, const Share& share,
             RankResult& out) {
  const Type compute = compute_type(settings.input);
  for_each(share, channels, c.index, [&](std::size_t i) {
    double y = fused_multiply_add(compute, subtract(compute, share.x[i], c.mean_hi), c.k, c.shift);
    if (!share.residual.empty()) y = add(compute, y, share.residual[i]);
    if (settings.relu && !passes(y)) y = 0.0;
    out.y[i] = round_to(settings.input, y);
  });
}

struct GradientSums {
  ExactSum a, b;  // Σdy', Σdy'·x
};

void add_gradient_sums(const Settings& settings, const Channel& c, std::int64_t channels, const Share& share,
                       RankResult& out, GradientSums& rank, GradientSums& group) {
  for_each(share, channels, c.index, [&](std::size_t i) {
    const double dy = !settings.relu || passes(out.y[i]) ? share.dy[i] : 0.0;
    out.d_residual[i] = dy;
    for (GradientSums* sums : {&rank, &group}) {
      sums->a.add(dy);
      sums->b.add_product(dy, share.x[i]);
    }
  });
}

void set_affine_gradients(const Settings& settings, const Channel& c, const GradientSums& sums,
                          RankResult& out) {
  out.bias_grad[c.index] = round_to(settings.parameters, sums.a.rounded());
  const double product = centred(sums.a, sums.b, c.mean) * c.invstd;
  out.weight_grad[c.index] = round_to(settings.parameters, product);
}

void differentiate(const Settings& settings, const Channel& c, std::int64_t channels, const Share& share,
                   const GradientSums& group, double n, bool of_batch, RankResult& out) {
  const Type compute = compute_type(settings.input);
  const double a = group.a.rounded();
  const double d = centred(group.a, group.b, c.mean);
  const double invvar = c.invstd * c.invstd;
  const double slope = c.k64 * invvar;
  const double d_n = d / n;
  const double c2_64 = -slope * d_n;
  const double a_n = a / n;
  const double level = c.k64 * a_n;
  const double tilt = c2_64 * c.mean_lo;
  const double c1_64 = -level - tilt;
  const double c2 = round_to(compute, c2_64);
  const double c1 = round_to(compute, c1_64);
  for_each(share, channels, c.index, [&](std::size_t i) {
    const double dy = out.d_residual[i];
    double dx = 0;
    if (of_batch) {
      const double inner = fused_multiply_add(compute, c2, subtract(compute, share.x[i], c.mean_hi), c1);
      dx = fused_multiply_add(compute, c.k, dy, inner);
    } else {
      dx = multiply(compute, c.k, dy);
    }
    out.dx[i] = round_to(settings.input, dx);
  });
}

Result empty_result(const State& state, std::int64_t channels, const std::vector<Share>& shares) {
  Result result;
  const auto c = static_cast<std::size_t>(channels);
  for (auto* values : {&result.mean, &result.var, &result.invstd}) values->assign(c, 0.0);
  for (const Share& share : shares) {
    RankResult rank;
    for (auto* values : {&rank.y, &rank.dx, &rank.d_residual}) values->assign(share.x.size(), 0.0);
    for (auto* values : {&rank.weight_grad, &rank.bias_grad}) values->assign(c, 0.0);
    result.ranks.push_back(rank);
    result.count += share.samples * share.places;
  }
  result.state = state;
  return result;
}

// Everything after the statistics, for one channel.
void run_channel(const Settings& settings, const Channel& c, std::int64_t channels,
                 const std::vector<Share>& shares, bool of_batch, bool group_gradients, Result& result) {
  std::vector<GradientSums> sums(shares.size());
  GradientSums group;
  bool backward = false;
  for (std::size_t r = 0; r < shares.size(); ++r) {
    forward(settings, c, channels, shares[r], result.ranks[r]);
    if (shares[r].dy.empty()) continue;
    backward = true;
    add_gradient_sums(settings, c, channels, shares[r], result.ranks[r], sums[r], group);
  }
  if (!backward) return;
  for (std::size_t r = 0; r < shares.size(); ++r) {
    differentiate(settings, c, channels, shares[r], group, static_cast<double>(result.count), of_batch,
                  result.ranks[r]);
    if (group_gradients) {
      set_affine_gradients(settings, c, group, result.ranks[r]);
    } else if (!shares[r].x.empty()) {
      set_affine_gradients(settings, c, sums[r], result.ranks[r]);
    }
  }
}

Statistics batch_statistics(std::int64_t channels, std::size_t channel, const std::vector<Share>& shares,
                            std::int64_t count) {
  ExactSum s1, s2;
  for (const Share& share : shares) {
    for_each(share, channels, channel, [&](std::size_t i) {
      s1.add(share.x[i]);
      s2.add_product(share.x[i], share.x[i]);
    });
  }
  return statistics_of(s1, s2, count);
}

}  // namespace

Result train(const Settings& settings, const State& state, std::int64_t channels,
             const std::vector<Share>& shares) {
  Result result = empty_result(state, channels, shares);
  if (result.count == 0) return result;
  const bool tracks = !state.running_mean.empty();
  if (tracks) ++result.state.batches_tracked;
  const double f =
      settings.momentum ? *settings.momentum : 1.0 / static_cast<double>(result.state.batches_tracked);
  const double g = 1.0 - f;
  for (std::size_t i = 0; i < static_cast<std::size_t>(channels); ++i) {
    const Statistics s = batch_statistics(channels, i, shares, result.count);
    result.mean[i] = s.mean;
    result.var[i] = s.var;
    result.invstd[i] = inverse_deviation(s.var, settings.eps);
    const bool finite = std::isfinite(s.mean) && std::isfinite(s.var);
    if (tracks && (finite || !settings.skip_nonfinite_update)) {
      const auto update = [&](double running, double batch) {
        const double kept = g * running;
        const double added = f * batch;
        const double sum = kept + added;
        return round_to(settings.parameters, sum);
      };
      result.state.running_mean[i] = update(state.running_mean[i], s.mean);
      result.state.running_var[i] = update(state.running_var[i], s.var_unbiased);
    }
    const Channel c = coefficients(compute_type(settings.input), state, i, s.mean, result.invstd[i]);
    run_channel(settings, c, channels, shares, true, settings.group_gradients, result);
  }
  return result;
}

Result evaluate(const Settings& settings, const State& state, std::int64_t channels, const Share& share) {
  Result result = empty_result(state, channels, {share});
  if (result.count == 0) return result;
  const bool running = !state.running_mean.empty();
  for (std::size_t i = 0; i < static_cast<std::size_t>(channels); ++i) {
    if (running) {
      result.mean[i] = state.running_mean[i];
      result.var[i] = state.running_var[i];
    } else {
      const Statistics s = batch_statistics(channels, i, {share}, result.count);
      result.mean[i] = s.mean;
      result.var[i] = s.var;
    }
    result.invstd[i] = inverse_deviation(result.var[i], settings.eps);
    const Channel c = coefficients(compute_type(settings.input), state, i, result.mean[i], result.invstd[i]);
    run_channel(settings, c, channels, {share}, !running, false, result);
  }
  return result;
}

std::vector<double> matmul(Type type, std::size_t a_columns, std::size_t b_columns,
                           const std::vector<Factors>& shares) {
  std::vector<double> c;
  for (std::size_t i = 0; i < a_columns; ++i) {
    for (std::size_t j = 0; j < b_columns; ++j) {
      ExactSum sum;
      for (const Factors& share : shares) {
        for (std::size_t n = 0; n < static_cast<std::size_t>(share.rows); ++n)
          sum.add_product(share.a[n * a_columns + i], share.b[n * b_columns + j]);
      }
      c.push_back(sum.rounded(type));
    }
  }
  return c;
}

}  // namespace oracle
