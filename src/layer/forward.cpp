#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "base/fp_environment.h"
#include "exact/finish.h"
#include "kernels/accumulate.h"
#include "kernels/apply.h"
#include "kernels/convert.h"
#include "layer/blocks.h"
#include "layer/checks.h"
#include "layer/impl.h"
#include "syncbn/error.h"

namespace syncbn {
namespace {

// The steps of a forward after its sums are known.
class Forward {
 public:
  Forward(const ForwardTensors& t, const layer::Parameters& parameters, const SyncBatchNormOptions& options,
          layer::Workspace& work)
      : geometry_(layer::geometry_of(t.x)),
        tensors_{t.x.data, t.residual ? t.residual->data : nullptr, t.y.data},
        parameters_(parameters),
        options_(options),
        work_(work) {}

  // Of a batch of which every rank has its sums; `records`: of all channels, where they are not summed here.
  void by_batch(std::int64_t together, exact::ConstRecords records) {
    if (together == 0) {
      layer::for_each_channels(geometry_.channels, [&](std::int64_t c, std::int64_t channels) {
        finish(c, channels, records.from(c));
      });
      kernels::normalize(tensors_, geometry_, coefficients(), relu());
      return;
    }
    const kernels::Write write = kernels::write_for(geometry_, together);
    layer::for_each_block(geometry_, together, [&](const kernels::Part& part, exact::Records block) {
      kernels::accumulate({tensors_.x}, {tensors_.x}, geometry_, part, block);
      finish(part.channel, part.channels, block);
      kernels::normalize(tensors_, geometry_, part, coefficients(), relu(), write);
    });
  }

  void by_running_statistics() {
    layer::for_each_channels(geometry_.channels, [&](std::int64_t c, std::int64_t channels) {
      Saved& made = work_.saved;
      for (auto i = static_cast<std::size_t>(c); i < static_cast<std::size_t>(c + channels); ++i) {
        made.mean[i] = (*parameters_.running_mean)[static_cast<std::int64_t>(i)];
        made.var[i] = (*parameters_.running_var)[static_cast<std::int64_t>(i)];
        made.invstd[i] = exact::inverse_std(made.var[i], options_.eps);
      }
      set_coefficients(c, channels);
    });
    kernels::normalize(tensors_, geometry_, coefficients(), relu());
  }

 private:
  bool relu() const { return options_.activation == Activation::relu; }

  void finish(std::int64_t first, std::int64_t channels, exact::ConstRecords records) {
    Saved& made = work_.saved;
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto i = static_cast<std::size_t>(first + c);
      const exact::Statistics s = exact::statistics(records[c], made.count, options_.eps);
      made.mean[i] = s.mean;
      made.var[i] = s.var;
      made.invstd[i] = s.invstd;
      made.var_unbiased[i] = s.var_unbiased;
    }
    set_coefficients(first, channels);
  }

  void set_coefficients(std::int64_t first, std::int64_t channels) {
    kernels::with_storage(geometry_.dtype, [&](auto* null) {
      using T = kernels::Compute<std::remove_pointer_t<decltype(null)>>;
      T *mean_hi = work_.column<T>(0), *k = work_.column<T>(1), *shift = work_.column<T>(2);
      Saved& made = work_.saved;
      for (std::int64_t c = first; c < first + channels; ++c) {
        const auto i = static_cast<std::size_t>(c);
        made.scale[i] = (parameters_.weight ? (*parameters_.weight)[c] : 1.0) * made.invstd[i];
        const double bias = parameters_.bias ? (*parameters_.bias)[c] : 0.0;
        const auto made_here = exact::forward_coefficients<T>(made.mean[i], made.scale[i], bias);
        mean_hi[i] = made_here.mean_hi;
        k[i] = made_here.k;
        shift[i] = made_here.shift;
      }
    });
  }

  kernels::NormalizeCoefficients coefficients() const {
    return kernels::with_storage(geometry_.dtype, [&](auto* null) {
      using T = kernels::Compute<std::remove_pointer_t<decltype(null)>>;
      return kernels::NormalizeCoefficients{work_.column<T>(0), work_.column<T>(1), work_.column<T>(2)};
    });
  }

  const kernels::Geometry geometry_;
  const kernels::NormalizeTensors tensors_;
  const layer::Parameters& parameters_;
  const SyncBatchNormOptions& options_;
  layer::Workspace& work_;
};

bool is_finite(const Saved& saved, std::int64_t channel) {
  const auto i = static_cast<std::size_t>(channel);
  return std::isfinite(saved.mean[i]) && std::isfinite(saved.var_unbiased[i]);
}

}  // namespace

void SyncBatchNorm::Impl::forward(const ForwardTensors& tensors, Saved& result) {
  make(tensors);
  track(workspace_.saved);
  std::swap(result, workspace_.saved);
}

void SyncBatchNorm::Impl::normalize(const ForwardTensors& tensors, Saved& result) {
  make(tensors);
  std::swap(result, workspace_.saved);
}

// y, and in the workspace what is saved.
void SyncBatchNorm::Impl::make(const ForwardTensors& tensors) {
  const base::FpEnvironment environment;
  if (training) {
    make_by_group(tensors);
  } else {
    make_alone(tensors);
  }
}

void SyncBatchNorm::Impl::make_by_group(const ForwardTensors& t) {
  Group& group = joined_group();
  const group::CallDescription& description = call(Direction::forward, t.x.dtype);
  std::vector<std::int64_t>& message = workspace_.message;
  std::int64_t together = 0;
  prepare_or_fail(group, description, [&] {
    layer::check_forward(t, num_features);
    if (group.size() == 1) together = layer::channels_together(layer::geometry_of(t.x), 1);
    message.resize(together != 0 ? 1 : forward_words(t.x.dtype));
    start_forward(t, message, group.size() != 1, workspace_);
  });
  group.sum(description, message);
  finish_forward(t, together, message, workspace_);
}

// The count, then one record a channel.
std::size_t SyncBatchNorm::Impl::forward_words(DType input) const {
  return static_cast<std::size_t>(1 + num_features * exact::sum_format(input).words());
}

void SyncBatchNorm::Impl::start_forward(const ForwardTensors& t, std::span<std::int64_t> message,
                                        bool of_group, layer::Workspace& work) const {
  const kernels::Geometry geometry = layer::geometry_of(t.x);
  work.resize_forward(num_features);
  message[0] = geometry.positions();
  if (message.size() == 1) return;
  kernels::accumulate({t.x.data}, {t.x.data}, geometry, {message.data() + 1, exact::sum_format(t.x.dtype)},
                      of_group ? kernels::Use::wire : kernels::Use::finish);
}

void SyncBatchNorm::Impl::finish_forward(const ForwardTensors& t, std::int64_t together,
                                         std::span<const std::int64_t> message, layer::Workspace& work) {
  const Group& group = joined_group();
  Saved& made = work.saved;
  made.statistics = Saved::Statistics::group_batch;
  made.count = message[0];
  if (made.count == 0) return;  // the whole group is empty: nothing to normalize, nothing to learn
  if (made.count == 1) {
    throw InvalidArgument(
        fmt::format("x: 1 element per channel over the whole group '{}'; training needs at least 2 for the "
                    "unbiased variance",
                    group.name()));
  }
  Forward(t, parameters, options, work)
      .by_batch(together, {message.data() + 1, exact::sum_format(t.x.dtype)});
  for (std::int64_t c = 0; c < num_features && options.nonfinite == Nonfinite::error; ++c) {
    if (is_finite(made, c)) continue;
    throw InvalidArgument(fmt::format(
        "x: channel {} has mean {} and variance {} over group '{}'; nonfinite = error allows finite "
        "statistics only",
        c, made.mean[static_cast<std::size_t>(c)], made.var[static_cast<std::size_t>(c)], group.name()));
  }
}

void SyncBatchNorm::Impl::make_alone(const ForwardTensors& t) {
  layer::check_forward(t, num_features);
  const kernels::Geometry geometry = layer::geometry_of(t.x);
  workspace_.resize_forward(num_features);
  Saved& made = workspace_.saved;
  made.count = geometry.positions();
  Forward forward(t, parameters, options, workspace_);
  if (parameters.running_mean) {
    made.statistics = Saved::Statistics::running;
    return forward.by_running_statistics();
  }
  made.statistics = Saved::Statistics::local_batch;
  const std::int64_t together = layer::channels_together(geometry, 1);
  std::vector<std::int64_t>& records = workspace_.message;
  if (together == 0) {
    records.resize(static_cast<std::size_t>(num_features * exact::sum_format(t.x.dtype).words()));
    kernels::accumulate({t.x.data}, {t.x.data}, geometry, {records.data(), exact::sum_format(t.x.dtype)},
                        kernels::Use::finish);
  }
  if (made.count != 0) forward.by_batch(together, {records.data(), exact::sum_format(t.x.dtype)});
}

void SyncBatchNorm::Impl::track(const Saved& from) {
  if (from.statistics != Saved::Statistics::group_batch || from.count == 0 || !parameters.running_mean)
    return;
  layer::check_saved(from, num_features);
  const base::FpEnvironment environment;
  const std::int64_t batches = *parameters.num_batches_tracked + 1;
  const double factor = options.momentum ? *options.momentum : 1 / static_cast<double>(batches);
  // Serial: a host program's thread pool could fail in the middle.
  for (std::int64_t c = 0; c < num_features; ++c) {
    if (options.nonfinite == Nonfinite::skip_update && !is_finite(from, c)) continue;
    const auto i = static_cast<std::size_t>(c);
    layer::ChannelValues& mean = *parameters.running_mean;
    layer::ChannelValues& var = *parameters.running_var;
    mean.set(c, exact::running_update(mean[c], from.mean[i], factor));
    var.set(c, exact::running_update(var[c], from.var_unbiased[i], factor));
  }
  parameters.num_batches_tracked = batches;
}

}  // namespace syncbn
