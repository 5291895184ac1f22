#include <fmt/format.h>

#include <array>
#include <vector>

#include "base/fp_environment.h"
#include "exact/finish.h"
#include "exact/value_row.h"
#include "kernels/accumulate.h"
#include "kernels/convert.h"
#include "layer/checks.h"
#include "layer/impl.h"
#include "syncbn/error.h"

// With m = x − mean, r = invstd, w = weight, n the count, A = Σdy', B = Σdy'·m (from backward), u, v, z the
// gradients that arrive for dx, weight_grad and bias_grad, t the one for d_residual, and the group's sums
// U = Σu, V = Σu·m, Q = Σu·dy', Av = Σ v·A_own, Bv = Σ v·B_own (over the ranks, since weight_grad is a rank's
// own):
//
//     d_dy     = w r (u − U/n − m r² V/n) + v r m + z + t,   0 where ReLU closed
//     d_x      = (w r³/n) [m (U A/n − Q + 3 r² B V/n) + V (A/n − dy') + B (U/n − u)]
//                + r (v dy' − Av/n) − m r³ Bv/n
//     d_weight = r (Q_own − U A_own/n − r² V B_own/n)
//
// d_weight takes the group's U and V with the rank's own A and B; the other way round is right on one rank
// only. Where the statistics were constants (evaluation), all sums but Q_own are zero.
namespace syncbn {
namespace {

// Of one channel.
struct Coefficients {
  double mean;
  double dy_u, dy_m, dy_1;     // d_dy = dy_u·u + dy_m·m + dy_1 + t
  double x_m, x_dy, x_u, x_1;  // d_x = x_m·m + x_dy·dy' + x_u·u + x_1
};

// Of one channel, over the batch that the statistics are of.
struct Sums {
  double a, b, u, v, q, av, bv;
};

Coefficients coefficients(double mean, double invstd, double scale, double n, const Sums& s, double dd_weight,
                          double dd_bias) {
  const double invvar = invstd * invstd;
  const double outer = scale * invvar / n;
  Coefficients k{};
  k.mean = mean;
  k.dy_u = scale;
  k.dy_m = dd_weight * invstd - outer * s.v;
  k.dy_1 = dd_bias - scale * (s.u / n);
  k.x_m = outer * (s.u * (s.a / n) - s.q + 3 * invvar * s.b * (s.v / n)) - invstd * invvar * (s.bv / n);
  k.x_dy = invstd * dd_weight - outer * s.v;
  k.x_u = -(outer * s.b);
  k.x_1 = outer * (s.v * (s.a / n) + s.b * (s.u / n)) - invstd * (s.av / n);
  return k;
}

template <class Storage>
struct Elements {
  const Storage *dy, *x, *y, *u, *t;
  Storage *d_dy, *d_x;

  explicit Elements(const DoubleBackwardTensors& tensors, bool relu)
      : dy(static_cast<const Storage*>(tensors.dy.data)),
        x(static_cast<const Storage*>(tensors.x.data)),
        y(relu ? static_cast<const Storage*>(tensors.y->data) : nullptr),
        u(tensors.ddx ? static_cast<const Storage*>(tensors.ddx->data) : nullptr),
        t(tensors.dd_residual ? static_cast<const Storage*>(tensors.dd_residual->data) : nullptr),
        d_dy(tensors.d_dy ? static_cast<Storage*>(tensors.d_dy->data) : nullptr),
        d_x(tensors.d_x ? static_cast<Storage*>(tensors.d_x->data) : nullptr) {}

  static double value(const Storage* values, std::int64_t i) {
    return values != nullptr ? static_cast<double>(kernels::widen(values[i])) : 0.0;
  }

  void apply(std::int64_t i, const Coefficients& k) const {
    const bool open = y == nullptr || kernels::passes(kernels::widen(y[i]));
    const double m = value(x, i) - k.mean;
    if (d_dy != nullptr)
      d_dy[i] = static_cast<Storage>(open ? k.dy_u * value(u, i) + k.dy_m * m + k.dy_1 + value(t, i) : 0.0);
    if (d_x != nullptr) {
      d_x[i] = static_cast<Storage>(k.x_m * m + k.x_dy * (open ? value(dy, i) : 0.0) + k.x_u * value(u, i) +
                                    k.x_1);
    }
  }
};

template <class Storage>
void apply(const DoubleBackwardTensors& tensors, bool relu, const kernels::Geometry& g,
           const std::vector<Coefficients>& k) {
  const Elements<Storage> elements(tensors, relu);
  // Runs of memory: a channel of a sample, or the channels of a position.
  const bool last = g.layout == Layout::channels_last;
  const std::int64_t run = last ? g.channels : g.spatial;
  const std::int64_t runs = g.elements() / run;
  const std::int64_t together = std::max<std::int64_t>(1, 16384 / run);  // some µs of work
  base::parallel_for(static_cast<int>((runs + together - 1) / together), [&](int task) {
    const std::int64_t end = std::min(runs, (task + 1) * together);
    for (std::int64_t r = task * together; r < end; ++r) {
      for (std::int64_t i = 0; i < run; ++i) {
        elements.apply(r * run + i, k[static_cast<std::size_t>(last ? i : r % g.channels)]);
      }
    }
  });
}

}  // namespace

void SyncBatchNorm::Impl::double_backward(const Saved& from, const BackwardSums& sums,
                                          const DoubleBackwardTensors& t) {
  const base::FpEnvironment environment;
  const bool relu = options.activation == Activation::relu;
  const kernels::Geometry geometry = layer::geometry_of(t.x);
  const exact::SumFormat& format = exact::sum_format(t.x.dtype);
  const exact::SumFormat& value_format = exact::sum_format(DType::float64);
  const int value_words = exact::value_row_words(value_format);
  const bool collective = is_collective(from);
  const bool of_batch = from.statistics != Saved::Statistics::running;
  const auto channels = static_cast<std::size_t>(num_features);
  const auto values_of = [&](const void* values) {
    layer::ChannelValues given(options.dtype, num_features, 0.0);
    if (values != nullptr) given.bind(const_cast<void*>(values));  // NOLINT: only read
    return given;
  };
  const layer::ChannelValues dd_weight = values_of(t.dd_weight);
  const layer::ChannelValues dd_bias = values_of(t.dd_bias);

  // Records of (u, x), records of (dy', u), rows of v·A_own and of v·B_own: always all of them.
  std::vector<std::int64_t> message;
  std::vector<double> own_q(channels);
  const auto records = static_cast<std::size_t>(format.words()) * channels;
  const auto row = [&](std::size_t which, std::size_t c) {
    return message.data() + 2 * records + (which * channels + c) * static_cast<std::size_t>(value_words);
  };
  const auto q_of = [&](std::size_t c) {
    return exact::centred_product(
        exact::ConstRecords(message.data() + records, format)[static_cast<std::int64_t>(c)], 0.0);
  };
  const auto prepare = [&] {
    if (options.affine_gradients == AffineGradients::group)
      throw InvalidArgument("double_backward: affine_gradients = group, expected local");
    layer::check_saved(from, num_features);
    layer::check_double_backward(t, num_features, relu, options.dtype);
    layer::check_count(from, geometry.positions());
    for (const auto* values : {&sums.a, &sums.b, &sums.own_a, &sums.own_b}) {
      if (values->size() == channels) continue;
      throw InvalidArgument(
          fmt::format("sums: {} channels, expected num_features = {}", values->size(), num_features));
    }
    message.resize(2 * records + 2 * channels * static_cast<std::size_t>(value_words));
    if (t.ddx) {
      const kernels::Operand u{t.ddx->data};
      kernels::accumulate(u, {t.x.data}, geometry, {message.data(), format}, kernels::Use::wire);
      kernels::accumulate({t.dy.data, relu ? t.y->data : nullptr}, u, geometry,
                          {message.data() + records, format}, kernels::Use::wire);
    }
    layer::for_each_channel(num_features, [&](std::int64_t c) {
      const auto i = static_cast<std::size_t>(c);
      own_q[i] = q_of(i);
      exact::add_value(dd_weight[c] * sums.own_a[i], value_format, row(0, i));
      exact::add_value(dd_weight[c] * sums.own_b[i], value_format, row(1, i));
    });
  };
  if (collective) {
    Group& group = joined_group();
    const group::CallDescription& description = call(Direction::double_backward, t.x.dtype);
    prepare_or_fail(group, description, prepare);
    group.sum(description, message);
  } else {
    prepare();
  }

  std::vector<Coefficients> k(channels);
  std::vector<double> d_weight(channels);
  const auto n = static_cast<double>(from.count);
  layer::for_each_channel(from.count == 0 ? 0 : num_features, [&](std::int64_t c) {
    const auto i = static_cast<std::size_t>(c);
    Sums s{};
    if (of_batch) {
      const exact::ConstRecord record = exact::ConstRecords(message.data(), format)[c];
      s = {sums.a[i],
           sums.b[i],
           exact::rounded_sum(record),
           exact::centred_product(record, from.mean[i]),
           q_of(i),
           exact::value_of<double>(row(0, i), value_format),
           exact::value_of<double>(row(1, i), value_format)};
    }
    const double r = from.invstd[i];
    k[i] = coefficients(from.mean[i], r, from.scale[i], n, s, dd_weight[c], dd_bias[c]);
    // A rank without elements has no part in it, whatever the statistics are.
    if (geometry.positions() == 0) return;
    d_weight[i] = r * (own_q[i] - s.u * (sums.own_a[i] / n) - r * r * s.v * (sums.own_b[i] / n));
  });
  if (geometry.elements() != 0) {
    kernels::with_storage(geometry.dtype, [&](auto* null) {
      apply<std::remove_pointer_t<decltype(null)>>(t, relu, geometry, k);
    });
  }
  if (t.d_weight == nullptr) return;
  layer::ChannelValues result(options.dtype, num_features, 0.0);
  result.bind(t.d_weight);
  for (std::int64_t c = 0; c < num_features; ++c) result.set(c, d_weight[static_cast<std::size_t>(c)]);
}

}  // namespace syncbn
