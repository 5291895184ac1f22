// SPDX-License-Identifier: Apache-2.0
#include "layer/harness.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace syncbn::testing {
namespace {

constexpr std::byte kUnset{0xa5};

std::size_t bytes_of(oracle::Type type) { return static_cast<std::size_t>(oracle::bits_of(type) / 8); }

void put(oracle::Type type, double value, std::byte* to) {
  const std::uint64_t bits = oracle::encode(type, value);
  if (!std::isnan(value) && oracle::decode(type, bits) != value) {
    throw std::logic_error(fmt::format("{} is no {}", value, oracle::name_of(type)));
  }
  std::memcpy(to, &bits, bytes_of(type));  // little endian
}
double get(oracle::Type type, const std::byte* from) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, from, bytes_of(type));
  return oracle::decode(type, bits);
}

oracle::Type type_of(const StateEntry& entry) { return static_cast<oracle::Type>(*entry.dtype); }

StateEntry entry_of(SyncBatchNorm& layer, const std::string& name) {
  if (name == "weight_grad" || name == "bias_grad") {
    const DType type = layer.options().dtype;
    const auto entry = [&](auto values) { return StateEntry{name, values.data(), type, values.size()}; };
    switch (type) {
      case DType::float16:
        return entry(layer.values<float16>(name));
      case DType::bfloat16:
        return entry(layer.values<bfloat16>(name));
      case DType::float32:
        return entry(layer.values<float>(name));
      case DType::float64:
        return entry(layer.values<double>(name));
    }
  }
  for (const StateEntry& entry : layer.state()) {
    if (entry.name == name) return entry;
  }
  throw std::logic_error("no state entry " + name);
}

std::uint64_t comparable(double value) {
  return std::bit_cast<std::uint64_t>(std::isnan(value) ? std::numeric_limits<double>::quiet_NaN() : value);
}

}  // namespace

Tensor::Tensor(oracle::Type type, Shape shape, Layout layout, const std::vector<double>* values)
    : type_(type),
      shape_(std::move(shape)),
      layout_(layout),
      data_(static_cast<std::size_t>(shape_.elements()) * bytes_of(type), kUnset) {
  if (values == nullptr) return;
  if (values->size() != static_cast<std::size_t>(shape_.elements())) throw std::logic_error("size of values");
  for (std::size_t i = 0; i < values->size(); ++i)
    put(type_, (*values)[i], data_.data() + place(i) * bytes_of(type_));
}

std::size_t Tensor::place(std::size_t i) const {
  if (layout_ == Layout::channels_first) return i;
  const auto channels = static_cast<std::size_t>(shape_.channels());
  const auto spatial = static_cast<std::size_t>(shape_.spatial());
  const std::size_t sample = i / (channels * spatial);
  const std::size_t channel = i / spatial % channels;
  return (sample * spatial + i % spatial) * channels + channel;
}

std::vector<double> Tensor::values() const {
  std::vector<double> result(static_cast<std::size_t>(shape_.elements()));
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = get(type_, data_.data() + place(i) * bytes_of(type_));
  return result;
}

std::vector<double> read_entry(SyncBatchNorm& layer, const std::string& name) {
  const StateEntry entry = entry_of(layer, name);
  const oracle::Type type = type_of(entry);
  std::vector<double> values(entry.size);
  for (std::size_t i = 0; i < entry.size; ++i) {
    values[i] = get(type, static_cast<const std::byte*>(entry.data) + i * bytes_of(type));
  }
  return values;
}

void write_entry(SyncBatchNorm& layer, const std::string& name, const std::vector<double>& values) {
  const StateEntry entry = entry_of(layer, name);
  const oracle::Type type = type_of(entry);
  if (values.size() != entry.size) throw std::logic_error("size of " + name);
  for (std::size_t i = 0; i < entry.size; ++i) {
    put(type, values[i], static_cast<std::byte*>(entry.data) + i * bytes_of(type));
  }
}

oracle::State read_state(SyncBatchNorm& layer) {
  oracle::State state;
  if (layer.options().affine) {
    state.weight = read_entry(layer, "weight");
    state.bias = read_entry(layer, "bias");
  }
  if (layer.options().track_running_stats) {
    state.running_mean = read_entry(layer, "running_mean");
    state.running_var = read_entry(layer, "running_var");
    state.batches_tracked = layer.values<std::int64_t>("num_batches_tracked")[0];
  }
  return state;
}

void write_state(SyncBatchNorm& layer, const oracle::State& state) {
  if (layer.options().affine) {
    write_entry(layer, "weight", state.weight);
    write_entry(layer, "bias", state.bias);
  }
  if (layer.options().track_running_stats) {
    write_entry(layer, "running_mean", state.running_mean);
    write_entry(layer, "running_var", state.running_var);
    layer.values<std::int64_t>("num_batches_tracked")[0] = state.batches_tracked;
  }
}

Shape shape_of(const Case& c, const oracle::Share& share) {
  std::vector<std::int64_t> dims{share.samples, c.channels};
  std::int64_t rest = share.places;
  for (int i = 1; i < c.spatial_dims; ++i) {
    std::int64_t factor = 1;
    for (const std::int64_t prime : {2, 3, 5, 7}) {
      if (rest % prime == 0 && factor == 1) factor = prime;
    }
    dims.push_back(factor);
    rest /= factor;
  }
  if (c.spatial_dims > 0) dims.push_back(rest);
  return Shape(dims);
}

SyncBatchNormOptions options_of(const Case& c) {
  SyncBatchNormOptions options;
  options.eps = c.settings.eps;
  options.momentum = c.settings.momentum;
  options.affine = !c.state.weight.empty();
  options.track_running_stats = !c.state.running_mean.empty();
  options.dtype = dtype(c.settings.parameters);
  options.affine_gradients = c.settings.group_gradients ? AffineGradients::group : AffineGradients::local;
  options.nonfinite = c.settings.skip_nonfinite_update ? Nonfinite::skip_update : Nonfinite::propagate;
  options.activation = c.settings.relu ? Activation::relu : Activation::none;
  return options;
}

std::string describe(const Case& c) {
  std::vector<std::string> shares;
  for (const oracle::Share& share : c.shares)
    shares.push_back(fmt::format("{}x{}", share.samples, share.places));
  return fmt::format(
      "{}, parameters {}, {}, {}, C={}, shares {}, {} spatial dims, threads {}, eps {}, momentum {}, affine "
      "{}, "
      "track {}, relu {}, residual {}, group gradients {}, skip_update {}",
      name_of(c.settings.input), name_of(c.settings.parameters), c.training ? "training" : "evaluation",
      c.layout == Layout::channels_last ? "channels-last" : "channels-first", c.channels,
      fmt::join(shares, "+"), c.spatial_dims, c.threads, c.settings.eps,
      c.settings.momentum ? *c.settings.momentum : -1.0, !c.state.weight.empty(),
      !c.state.running_mean.empty(), c.settings.relu, !c.shares.front().residual.empty(),
      c.settings.group_gradients, c.settings.skip_nonfinite_update);
}

oracle::Result run_library(const Case& c) {
  oracle::Result result;
  result.ranks.resize(c.shares.size());
  std::vector<oracle::Result> of_rank(c.shares.size());
  bool backward = false;
  bool residual = false;
  for (const oracle::Share& share : c.shares) {
    backward = backward || !share.dy.empty();
    residual = residual || !share.residual.empty();
  }
  run_ranks(static_cast<int>(c.shares.size()), [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    const oracle::Share& share = c.shares[r];
    const oracle::Type type = c.settings.input;
    const Shape shape = shape_of(c, share);
    const auto given = [&](const std::vector<double>& values) {
      return Tensor(type, shape, c.layout, &values);
    };
    const auto wanted = [&] { return Tensor(type, shape, c.layout); };
    set_num_threads(c.threads);
    SyncBatchNorm layer(c.channels, options_of(c));
    write_state(layer, c.state);
    layer.set_train(c.training);
    const Tensor x = given(share.x);
    Tensor y = wanted(), dx = wanted(), d_residual = wanted();
    const std::vector<double> none;
    const Tensor added = given(residual ? share.residual : share.x);
    const Tensor dy = given(backward ? share.dy : share.x);

    if (c.before_calls) c.before_calls();
    layer.forward({x.view(), y.view(), residual ? std::optional(added.view()) : std::nullopt});
    if (backward) {
      layer.backward({dy.view(), x.view(),
                      c.settings.relu ? std::optional<ConstTensorView>(y.view()) : std::nullopt, dx.view(),
                      d_residual.view()});
    }
    if (c.after_calls) c.after_calls();

    oracle::Result& mine = of_rank[r];
    mine.count = layer.saved().count;
    mine.mean = layer.saved().mean;
    mine.var = layer.saved().var;
    mine.invstd = layer.saved().invstd;
    mine.state = read_state(layer);
    oracle::RankResult& out = result.ranks[r];
    out.y = y.values();
    out.dx = backward ? dx.values() : std::vector<double>(out.y.size());
    out.d_residual = backward ? d_residual.values() : std::vector<double>(out.y.size());
    if (layer.options().affine) {
      out.weight_grad = read_entry(layer, "weight_grad");
      out.bias_grad = read_entry(layer, "bias_grad");
    }
  });
  const oracle::Result& first = of_rank.front();
  for (const oracle::Result& other : of_rank) {
    if (!same_bits(other.mean, first.mean) || !same_bits(other.var, first.var) ||
        !same_bits(other.invstd, first.invstd) ||
        !same_bits(other.state.running_mean, first.state.running_mean) ||
        !same_bits(other.state.running_var, first.state.running_var) ||
        other.state.batches_tracked != first.state.batches_tracked || other.count != first.count) {
      ADD_FAILURE() << "the ranks have different statistics: " << describe(c);
    }
  }
  result.count = first.count;
  result.mean = first.mean;
  result.var = first.var;
  result.invstd = first.invstd;
  result.state = first.state;
  return result;
}

oracle::Result run_oracle(const Case& c) {
  oracle::Result result = c.training ? oracle::train(c.settings, c.state, c.channels, c.shares)
                                     : oracle::evaluate(c.settings, c.state, c.channels, c.shares.front());
  for (oracle::RankResult& rank : result.ranks) {
    if (c.state.weight.empty()) {
      rank.weight_grad.clear();
      rank.bias_grad.clear();
    }
  }
  return result;
}

std::vector<double> run_oracle(const Matmul& m) {
  return oracle::matmul(m.type, static_cast<std::size_t>(m.a_columns), static_cast<std::size_t>(m.b_columns),
                        m.shares);
}

std::vector<double> run_library(const Matmul& m) {
  std::vector<std::vector<double>> of_rank(m.shares.size());
  run_ranks(static_cast<int>(m.shares.size()), [&](int rank) {
    set_num_threads(m.threads);
    const auto r = static_cast<std::size_t>(rank);
    const oracle::Factors& share = m.shares[r];
    const Layout layout = rank % 2 == 0 ? Layout::channels_first : Layout::channels_last;  // the same memory
    const Tensor a(m.type, {share.rows, m.a_columns}, layout, &share.a);
    const Tensor b(m.type, {share.rows, m.b_columns}, layout, &share.b);
    Tensor c(m.type, {m.a_columns, m.b_columns}, layout);
    {
      const ClosedMemory closed;
      all_reduce_matmul(a.view(), b.view(), c.view());
    }
    of_rank[r] = c.values();
  });
  for (const std::vector<double>& other : of_rank) EXPECT_TRUE(same_bits(of_rank.front(), other));
  return of_rank.front();
}

::testing::AssertionResult same_bits(const std::vector<double>& expected, const std::vector<double>& actual) {
  if (expected.size() != actual.size()) {
    return ::testing::AssertionFailure() << "sizes " << expected.size() << " and " << actual.size();
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (comparable(expected[i]) == comparable(actual[i])) continue;
    return ::testing::AssertionFailure()
           << fmt::format("element {} of {}: expected {:a} ({}), got {:a} ({})", i, expected.size(),
                          expected[i], expected[i], actual[i], actual[i]);
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult same_bits(const oracle::Result& expected, const oracle::Result& actual) {
  std::string differences;
  const auto compare = [&](const std::string& name, const std::vector<double>& e,
                           const std::vector<double>& a) {
    if (const auto same = same_bits(e, a); !same) differences += name + ": " + same.message() + "\n";
  };
  const auto compare_counts = [&](const char* name, std::int64_t e, std::int64_t a) {
    if (e != a) differences += fmt::format("{}: expected {}, got {}\n", name, e, a);
  };
  compare_counts("count", expected.count, actual.count);
  compare("mean", expected.mean, actual.mean);
  compare("var", expected.var, actual.var);
  compare("invstd", expected.invstd, actual.invstd);
  compare("running_mean", expected.state.running_mean, actual.state.running_mean);
  compare("running_var", expected.state.running_var, actual.state.running_var);
  compare_counts("num_batches_tracked", expected.state.batches_tracked, actual.state.batches_tracked);
  compare_counts("ranks", static_cast<std::int64_t>(expected.ranks.size()),
                 static_cast<std::int64_t>(actual.ranks.size()));
  for (std::size_t r = 0; r < std::min(expected.ranks.size(), actual.ranks.size()); ++r) {
    const oracle::RankResult& e = expected.ranks[r];
    const oracle::RankResult& a = actual.ranks[r];
    const std::string of_rank = fmt::format(" of rank {}", r);
    compare("y" + of_rank, e.y, a.y);
    compare("dx" + of_rank, e.dx, a.dx);
    compare("d_residual" + of_rank, e.d_residual, a.d_residual);
    compare("weight_grad" + of_rank, e.weight_grad, a.weight_grad);
    compare("bias_grad" + of_rank, e.bias_grad, a.bias_grad);
  }
  if (differences.empty()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << differences;
}

}  // namespace syncbn::testing
