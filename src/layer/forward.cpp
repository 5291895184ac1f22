#include <fmt/format.h>

#include <cmath>

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

using layer::ChannelValues;

void resize(Saved& saved, std::int64_t channels) {
  for (auto* values : {&saved.mean, &saved.var, &saved.invstd, &saved.scale, &saved.var_unbiased}) {
    values->resize(static_cast<std::size_t>(channels));
  }
}

bool is_finite(const Saved& saved, std::int64_t channel) {
  const auto i = static_cast<std::size_t>(channel);
  return std::isfinite(saved.mean[i]) && std::isfinite(saved.var_unbiased[i]);
}

// y from the statistics in `saved`.
void apply(const ForwardTensors& t, const kernels::Geometry& geometry, const Saved& saved,
           const std::optional<ChannelValues>& bias, bool relu) {
  kernels::with_storage(geometry.dtype, [&](auto* null) {
    using T = kernels::Compute<std::remove_pointer_t<decltype(null)>>;
    layer::Columns<T> columns(3, geometry.channels);
    layer::for_each_channel(geometry.channels, [&](std::int64_t c) {
      const auto i = static_cast<std::size_t>(c);
      const auto k = exact::forward_coefficients<T>(saved.mean[i], saved.scale[i], bias ? (*bias)[c] : 0.0);
      columns[0][c] = k.mean_hi;
      columns[1][c] = k.k;
      columns[2][c] = k.shift;
    });
    kernels::normalize(t.x.data, t.residual ? t.residual->data : nullptr, t.y.data, geometry,
                       {columns[0], columns[1], columns[2]}, relu);
  });
}

}  // namespace

void SyncBatchNorm::Impl::forward(const ForwardTensors& tensors, Saved& result) {
  Saved made;
  normalize(tensors, made);
  track(made);
  result = std::move(made);
}

void SyncBatchNorm::Impl::normalize(const ForwardTensors& tensors, Saved& result) {
  const kernels::FpEnvironment environment;
  if (training) {
    normalize_training(tensors, result);
  } else {
    normalize_evaluation(tensors, result);
  }
}

void SyncBatchNorm::Impl::normalize_training(const ForwardTensors& t, Saved& result) {
  Group& group = joined_group();
  const group::Call& description = call(Direction::forward, t.x.dtype);
  const exact::SumFormat& format = exact::sum_format(t.x.dtype);
  const kernels::Geometry geometry = layer::geometry_of(t.x);

  std::vector<std::int64_t> message;  // count, then one record a channel
  Saved made;
  prepare_or_fail(group, description, [&] {
    layer::check_forward(t, num_features);
    message.resize(static_cast<std::size_t>(1 + num_features * format.words()));
    resize(made, num_features);
    message[0] = geometry.positions();
    kernels::accumulate({t.x.data}, {t.x.data}, geometry, message.data() + 1);
  });
  group.sum(description, message);

  made.statistics = Saved::Statistics::group_batch;
  made.count = message[0];
  if (made.count == 0) {  // the whole group is empty: nothing to normalize, nothing to learn
    result = std::move(made);
    return;
  }
  if (made.count == 1) {
    throw InvalidArgument(
        fmt::format("x: 1 element per channel over the whole group '{}'; training needs at least 2 for the "
                    "unbiased variance",
                    group.name()));
  }
  layer::for_each_channel(num_features, [&](std::int64_t c) {
    const auto i = static_cast<std::size_t>(c);
    const exact::Statistics s =
        exact::statistics(message.data() + 1 + c * format.words(), format, made.count, options.eps);
    made.mean[i] = s.mean;
    made.var[i] = s.var;
    made.invstd[i] = s.invstd;
    made.scale[i] = (parameters.weight ? (*parameters.weight)[c] : 1.0) * s.invstd;
    made.var_unbiased[i] = s.var_unbiased;
  });
  for (std::int64_t c = 0; c < num_features && options.nonfinite == Nonfinite::error; ++c) {
    if (is_finite(made, c)) continue;
    throw InvalidArgument(fmt::format(
        "x: channel {} has mean {} and variance {} over group '{}'; nonfinite = error allows finite "
        "statistics only",
        c, made.mean[static_cast<std::size_t>(c)], made.var[static_cast<std::size_t>(c)], group.name()));
  }
  apply(t, geometry, made, parameters.bias, options.activation == Activation::relu);
  result = std::move(made);
}

void SyncBatchNorm::Impl::track(const Saved& from) {
  if (from.statistics != Saved::Statistics::group_batch || from.count == 0 || !parameters.running_mean)
    return;
  layer::check_saved(from, num_features);
  const kernels::FpEnvironment environment;
  const std::int64_t batches = *parameters.num_batches_tracked + 1;
  const double factor = options.momentum ? *options.momentum : 1 / static_cast<double>(batches);
  // Serial: a host program's thread pool could fail in the middle.
  for (std::int64_t c = 0; c < num_features; ++c) {
    if (options.nonfinite == Nonfinite::skip_update && !is_finite(from, c)) continue;
    const auto i = static_cast<std::size_t>(c);
    ChannelValues& mean = *parameters.running_mean;
    ChannelValues& var = *parameters.running_var;
    mean.set(c, exact::running_update(mean[c], from.mean[i], factor));
    var.set(c, exact::running_update(var[c], from.var_unbiased[i], factor));
  }
  parameters.num_batches_tracked = batches;
}

void SyncBatchNorm::Impl::normalize_evaluation(const ForwardTensors& t, Saved& result) const {
  layer::check_forward(t, num_features);
  const kernels::Geometry geometry = layer::geometry_of(t.x);
  const exact::SumFormat& format = exact::sum_format(t.x.dtype);
  Saved made;
  resize(made, num_features);
  made.count = geometry.positions();
  std::vector<std::int64_t> records;
  if (parameters.running_mean) {
    made.statistics = Saved::Statistics::running;
  } else {
    made.statistics = Saved::Statistics::local_batch;
    records.resize(static_cast<std::size_t>(num_features * format.words()));
    kernels::accumulate({t.x.data}, {t.x.data}, geometry, records.data());
    if (made.count == 0) {
      result = std::move(made);
      return;
    }
  }
  layer::for_each_channel(num_features, [&](std::int64_t c) {
    const auto i = static_cast<std::size_t>(c);
    if (parameters.running_mean) {
      made.mean[i] = (*parameters.running_mean)[c];
      made.var[i] = (*parameters.running_var)[c];
      made.invstd[i] = exact::inverse_std(made.var[i], options.eps);
    } else {
      const exact::Statistics s =
          exact::statistics(records.data() + c * format.words(), format, made.count, options.eps);
      made.mean[i] = s.mean;
      made.var[i] = s.var;
      made.invstd[i] = s.invstd;
    }
    made.scale[i] = (parameters.weight ? (*parameters.weight)[c] : 1.0) * made.invstd[i];
  });
  apply(t, geometry, made, parameters.bias, options.activation == Activation::relu);
  result = std::move(made);
}

}  // namespace syncbn
