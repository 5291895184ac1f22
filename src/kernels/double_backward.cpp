// SPDX-License-Identifier: Apache-2.0
#include "kernels/double_backward.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "base/parallel_for.h"
#include "exact/finish.h"
#include "exact/value_row.h"
#include "kernels/plan.h"

namespace syncbn::kernels::double_backward {
namespace {

// Coefficients of one channel.
struct Coefficients {
  double mean;
  double dy_u, dy_m, dy_1;     // d_dy = dy_u·u + dy_m·m + dy_1 + t
  double x_m, x_dy, x_u, x_1;  // d_x = x_m·m + x_dy·dy' + x_u·u + x_1
};

// Sums of one channel over the batch that the statistics are of.
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

  explicit Elements(const DoubleBackwardCall& call)
      : dy(static_cast<const Storage*>(call.dy)),
        x(static_cast<const Storage*>(call.x)),
        y(static_cast<const Storage*>(call.y)),
        u(static_cast<const Storage*>(call.ddx)),
        t(static_cast<const Storage*>(call.dd_residual)),
        d_dy(static_cast<Storage*>(call.d_dy)),
        d_x(static_cast<Storage*>(call.d_x)) {}

  static double value(const Storage* values, std::int64_t i) {
    return values != nullptr ? static_cast<double>(widen(values[i])) : 0.0;
  }

  void apply(std::int64_t i, const Coefficients& k) const {
    const bool open = y == nullptr || passes(widen(y[i]));
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
void apply(const DoubleBackwardCall& call, const std::vector<Coefficients>& k) {
  const Geometry& g = call.geometry;
  const Elements<Storage> elements(call);
  // Runs of memory: a channel of a sample, or the channels of a position.
  const bool last = g.layout == Layout::channels_last;
  const std::int64_t run = last ? g.channels : g.spatial;
  const std::int64_t runs = g.elements() / run;
  const std::int64_t together = std::max<std::int64_t>(1, kTaskElements / run);
  base::parallel_for(static_cast<int>((runs + together - 1) / together), [&](int task) {
    const std::int64_t end = std::min(runs, (task + 1) * together);
    for (std::int64_t r = task * together; r < end; ++r) {
      for (std::int64_t i = 0; i < run; ++i) {
        elements.apply(r * run + i, k[static_cast<std::size_t>(last ? i : r % g.channels)]);
      }
    }
  });
}

// The parts of a message; Word is int64_t, const or not.
template <class Word, class Records>
struct Message {
  Records ux, dyu;  // records of (u, x) and of (dy', u)
  Word *va, *vb;    // value rows of v·A_own and of v·B_own
  int row_words;

  Message(std::span<Word> words, const Geometry& g)
      : ux(words.data(), exact::sum_format(g.dtype)),
        dyu(words.data() + g.channels * exact::sum_format(g.dtype).words(), exact::sum_format(g.dtype)),
        va(words.data() + 2 * g.channels * exact::sum_format(g.dtype).words()),
        vb(nullptr),
        row_words(exact::value_row_words(exact::sum_format(DType::float64))) {
    vb = va + g.channels * row_words;
  }
  Word* row(Word* rows, std::int64_t channel) const { return rows + channel * row_words; }
};

double value_or_zero(const Values& values, std::int64_t channel) { return values ? values[channel] : 0.0; }

}  // namespace

std::size_t words(std::int64_t channels, DType dtype) {
  const int row = exact::value_row_words(exact::sum_format(DType::float64));
  return static_cast<std::size_t>(channels * 2 * (exact::sum_format(dtype).words() + row));
}

void accumulate(AccumulatePart accumulate_part, const DoubleBackwardCall& call,
                std::span<std::int64_t> words) {
  const Geometry& g = call.geometry;
  const Message<std::int64_t, exact::Records> message(words, g);
  if (call.ddx != nullptr) {
    const Operand u{call.ddx};
    kernels::accumulate(accumulate_part, u, {call.x}, g, message.ux, Use::wire);
    kernels::accumulate(accumulate_part, {call.dy, call.y}, u, g, message.dyu, Use::wire);
  }
  const exact::SumFormat& format = exact::sum_format(DType::float64);
  for_each_channels(g.channels, [&](std::int64_t first, std::int64_t channels) {
    for (std::int64_t c = first; c < first + channels; ++c) {
      const double v = value_or_zero(call.dd_weight, c);
      call.own_q[c] = exact::centred_product(message.dyu[c], 0.0);
      exact::add_value(v * call.sums.own_a[c], format, message.row(message.va, c));
      exact::add_value(v * call.sums.own_b[c], format, message.row(message.vb, c));
    }
  });
}

void differentiate(const DoubleBackwardCall& call, std::span<const std::int64_t> words) {
  const Geometry& g = call.geometry;
  const Message<const std::int64_t, exact::ConstRecords> message(words, g);
  const exact::SumFormat& format = exact::sum_format(DType::float64);
  std::vector<Coefficients> k(static_cast<std::size_t>(g.channels));
  std::vector<double> d_weight(k.size());
  const auto n = static_cast<double>(call.saved.count);
  for_each_channels(call.saved.count == 0 ? 0 : g.channels, [&](std::int64_t first, std::int64_t channels) {
    for (std::int64_t c = first; c < first + channels; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double mean = call.saved.mean[c], r = call.saved.invstd[c];
      Sums s{};
      if (is_of_batch(call.saved)) {
        s = {call.sums.a[c],
             call.sums.b[c],
             exact::rounded_sum(message.ux[c]),
             exact::centred_product(message.ux[c], mean),
             exact::centred_product(message.dyu[c], 0.0),
             exact::value_of<double>(message.row(message.va, c), format),
             exact::value_of<double>(message.row(message.vb, c), format)};
      }
      k[i] = coefficients(mean, r, call.saved.scale[c], n, s, value_or_zero(call.dd_weight, c),
                          value_or_zero(call.dd_bias, c));
      // The gradient of a rank without elements is zero, whatever the statistics are.
      if (g.positions() == 0) continue;
      d_weight[i] =
          r * (call.own_q[c] - s.u * (call.sums.own_a[c] / n) - r * r * s.v * (call.sums.own_b[c] / n));
    }
  });
  if (g.elements() != 0) {
    with_storage(g.dtype, [&](auto* null) { apply<std::remove_pointer_t<decltype(null)>>(call, k); });
  }
  if (!call.d_weight) return;
  call.d_weight.update(g.channels,
                       [&](std::int64_t c, double) { return d_weight[static_cast<std::size_t>(c)]; });
}

}  // namespace syncbn::kernels::double_backward
