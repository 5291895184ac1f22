#include <fmt/format.h>

#include "exact/finish.h"
#include "kernels/accumulate.h"
#include "kernels/apply.h"
#include "kernels/convert.h"
#include "kernels/fp_environment.h"
#include "layer/checks.h"
#include "layer/impl.h"
#include "syncbn/error.h"

namespace syncbn {
namespace {

// Gradients of weight and bias before they are rounded to the layer's dtype, (C,) each.
struct AffineGradient {
  std::vector<double> weight, bias;
};

// From the sums A = Σdy', B = Σdy'·x in the records.
void set_affine_gradient(const std::int64_t* records, const exact::SumFormat& format, const Saved& saved,
                         AffineGradient& gradient) {
  layer::for_each_channel(static_cast<std::int64_t>(saved.mean.size()), [&](std::int64_t c) {
    const auto i = static_cast<std::size_t>(c);
    const std::int64_t* record = records + c * format.words();
    gradient.bias[i] = exact::rounded_sum(record, format);
    gradient.weight[i] = exact::centred_product(record, format, saved.mean[i]) * saved.invstd[i];
  });
}

// fl64(A) and fl64(B − mean·A) of all channels.
void set_sums(const std::int64_t* records, const exact::SumFormat& format, const Saved& saved,
              std::vector<double>& a, std::vector<double>& b) {
  a.resize(saved.mean.size());
  b.resize(saved.mean.size());
  layer::for_each_channel(static_cast<std::int64_t>(saved.mean.size()), [&](std::int64_t c) {
    const auto i = static_cast<std::size_t>(c);
    a[i] = exact::rounded_sum(records + c * format.words(), format);
    b[i] = exact::centred_product(records + c * format.words(), format, saved.mean[i]);
  });
}

// dx and d_residual from the sums over the batch that the statistics are of.
void apply(const BackwardTensors& t, const kernels::Geometry& geometry, const Saved& saved,
           const std::int64_t* records, bool relu) {
  const bool of_batch = saved.statistics != Saved::Statistics::running;
  const exact::SumFormat& format = exact::sum_format(geometry.dtype);
  const auto n = static_cast<double>(saved.count);
  kernels::with_storage(geometry.dtype, [&](auto* null) {
    using T = kernels::Compute<std::remove_pointer_t<decltype(null)>>;
    layer::Columns<T> columns(4, geometry.channels);
    layer::for_each_channel(geometry.channels, [&](std::int64_t c) {
      const auto i = static_cast<std::size_t>(c);
      exact::BackwardCoefficients<T> k{0, static_cast<T>(saved.scale[i]), 0, 0};
      if (of_batch) {
        const std::int64_t* record = records + c * format.words();
        k = exact::backward_coefficients<T>(saved.mean[i], saved.invstd[i], saved.scale[i],
                                            exact::rounded_sum(record, format),
                                            exact::centred_product(record, format, saved.mean[i]), n);
      }
      columns[0][c] = k.mean_hi;
      columns[1][c] = k.k;
      columns[2][c] = k.c2;
      columns[3][c] = k.c1;
    });
    kernels::differentiate(t.dy.data, t.x.data, relu ? t.y->data : nullptr, t.dx ? t.dx->data : nullptr,
                           t.d_residual ? t.d_residual->data : nullptr, geometry,
                           {columns[0], columns[1], columns[2], columns[3], of_batch});
  });
}

}  // namespace

void SyncBatchNorm::Impl::backward(const Saved& from, const BackwardTensors& t, BackwardSums* sums) {
  const kernels::FpEnvironment environment;
  const bool relu = options.activation == Activation::relu;
  const kernels::Geometry geometry = layer::geometry_of(t.x);
  const exact::SumFormat& format = exact::sum_format(t.x.dtype);
  const bool none = from.statistics == Saved::Statistics::none;
  // Without a forward nobody knows what its backward would be; in training the peers expect it.
  const bool collective = from.statistics == Saved::Statistics::group_batch || (none && training);
  const bool of_group = collective && options.affine_gradients == AffineGradients::group;

  std::vector<std::int64_t> records;
  AffineGradient gradient;
  const auto prepare = [&] {
    if (none) throw InvalidArgument("backward: no forward was made before it");
    layer::check_backward(t, num_features, relu);
    layer::check_saved(from, num_features);
    layer::check_count(from, geometry.positions());
    records.resize(static_cast<std::size_t>(num_features * format.words()));
    gradient.weight.resize(static_cast<std::size_t>(num_features));
    gradient.bias.resize(static_cast<std::size_t>(num_features));
    kernels::accumulate({t.dy.data, relu ? t.y->data : nullptr}, {t.x.data}, geometry, records.data());
    // A rank without elements has zero gradients, whatever the statistics are.
    if (!of_group && geometry.positions() != 0) set_affine_gradient(records.data(), format, from, gradient);
    if (sums != nullptr) {
      sums->own_a.assign(from.mean.size(), 0.0);
      sums->own_b.assign(from.mean.size(), 0.0);
      if (geometry.positions() != 0) set_sums(records.data(), format, from, sums->own_a, sums->own_b);
    }
  };
  if (collective) {
    Group& group = joined_group();
    const group::Call& description = call(Direction::backward, t.x.dtype);
    prepare_or_fail(group, description, prepare);
    group.sum(description, records);
    if (of_group && from.count != 0) set_affine_gradient(records.data(), format, from, gradient);
  } else {
    prepare();
  }

  if (sums != nullptr) set_sums(records.data(), format, from, sums->a, sums->b);
  if (geometry.elements() != 0) apply(t, geometry, from, records.data(), relu);
  for (std::int64_t c = 0; c < num_features && parameters.weight_grad; ++c) {
    parameters.weight_grad->set(c, gradient.weight[static_cast<std::size_t>(c)]);
    if (parameters.bias_grad) parameters.bias_grad->set(c, gradient.bias[static_cast<std::size_t>(c)]);
  }
}

}  // namespace syncbn
