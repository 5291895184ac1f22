#include <fmt/format.h>

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

// The steps of a backward. Its sums are A = Σdy', B = Σdy'·x.
class Backward {
 public:
  Backward(const BackwardTensors& t, const Saved& saved, bool relu, layer::Workspace& work)
      : geometry_(layer::geometry_of(t.x)),
        tensors_{t.dy.data, t.x.data, relu && t.y ? t.y->data : nullptr, t.dx ? t.dx->data : nullptr,
                 t.d_residual ? t.d_residual->data : nullptr},
        saved_(saved),
        work_(work) {}

  kernels::Operand gradient() const { return {tensors_.dy, tensors_.y}; }

  // fl64(A) and fl64(B − mean·A): each exact and rounded once.
  void set_sums(std::int64_t first, std::int64_t channels, exact::ConstRecords records,
                std::vector<double>& a, std::vector<double>& b) const {
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto i = static_cast<std::size_t>(first + c);
      a[i] = exact::rounded_sum(records[c]);
      b[i] = exact::centred_product(records[c], saved_.mean[i]);
    }
  }
  // Computes this rank's own sums from the records, then expands the records to digits for the wire.
  void keep_own_sums(exact::Records records) {
    layer::for_each_channels(geometry_.channels, [&](std::int64_t c, std::int64_t channels) {
      const exact::Records own = records.from(c);
      if (geometry_.positions() != 0) {
        set_sums(c, channels, own, work_.sums.own_a, work_.sums.own_b);
      }
      for (std::int64_t i = 0; i < channels; ++i) own[i].expand();
    });
  }

  // dx and d_residual from the sums over the batch that the statistics are of.
  void apply(exact::ConstRecords records) {
    layer::for_each_channels(geometry_.channels, [&](std::int64_t c, std::int64_t channels) {
      finish(c, channels, records.from(c));
    });
    kernels::differentiate(tensors_, geometry_, coefficients());
  }

  // All of it, some channels at a time.
  void fused(std::int64_t together) {
    const kernels::Write write = kernels::write_for(geometry_, together);
    layer::for_each_block(geometry_, together, [&](const kernels::Part& part, exact::Records records) {
      kernels::accumulate(gradient(), {tensors_.x}, geometry_, part, records);
      finish(part.channel, part.channels, records);
      kernels::differentiate(tensors_, geometry_, part, coefficients(), write);
    });
  }

 private:
  bool of_batch() const { return saved_.statistics != Saved::Statistics::running; }

  void finish(std::int64_t first, std::int64_t channels, exact::ConstRecords records) {
    set_sums(first, channels, records, work_.sums.a, work_.sums.b);
    const auto n = static_cast<double>(saved_.count);
    kernels::with_storage(geometry_.dtype, [&](auto* null) {
      using T = kernels::Compute<std::remove_pointer_t<decltype(null)>>;
      T *mean_hi = work_.column<T>(0), *k = work_.column<T>(1), *c2 = work_.column<T>(2),
        *c1 = work_.column<T>(3);
      for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(first + channels); ++i) {
        exact::BackwardCoefficients<T> made{0, static_cast<T>(saved_.scale[i]), 0, 0};
        if (of_batch()) {
          made = exact::backward_coefficients<T>(saved_.mean[i], saved_.invstd[i], saved_.scale[i],
                                                 work_.sums.a[i], work_.sums.b[i], n);
        }
        mean_hi[i] = made.mean_hi;
        k[i] = made.k;
        c2[i] = made.c2;
        c1[i] = made.c1;
      }
    });
  }

  kernels::GradientCoefficients coefficients() const {
    return kernels::with_storage(geometry_.dtype, [&](auto* null) {
      using T = kernels::Compute<std::remove_pointer_t<decltype(null)>>;
      return kernels::GradientCoefficients{work_.column<T>(0), work_.column<T>(1), work_.column<T>(2),
                                           work_.column<T>(3), of_batch()};
    });
  }

  const kernels::Geometry geometry_;
  const kernels::GradientTensors tensors_;
  const Saved& saved_;
  layer::Workspace& work_;
};

}  // namespace

bool SyncBatchNorm::Impl::is_collective(const Saved& from) const {
  // Without a forward nobody knows what its backward would be; in training the peers expect it.
  return from.statistics == Saved::Statistics::group_batch ||
         (from.statistics == Saved::Statistics::none && training);
}

void SyncBatchNorm::Impl::check(const Saved& from, const BackwardTensors& t) const {
  layer::check_saved(from, num_features);
  layer::check_backward(t, num_features, options.activation == Activation::relu);
  layer::check_count(from, layer::geometry_of(t.x).positions());
}

void SyncBatchNorm::Impl::backward(const Saved& from, const BackwardTensors& t, BackwardSums* sums) {
  const base::FpEnvironment environment;
  const kernels::Geometry geometry = layer::geometry_of(t.x);
  Group* group = is_collective(from) ? &joined_group() : nullptr;
  const bool alone = group == nullptr || group->size() == 1;
  std::vector<std::int64_t>& records = workspace_.message;
  std::int64_t together = 0;
  const auto prepare = [&] {
    check(from, t);
    if (alone) together = layer::channels_together(geometry, options.activation == Activation::relu ? 3 : 2);
    records.resize(together != 0 ? 0 : backward_words(t.x.dtype));
    start_backward(from, t, records, !alone, workspace_);
  };
  if (group != nullptr) {
    const group::CallDescription& description = call(Direction::backward, t.x.dtype);
    prepare_or_fail(*group, description, prepare);
    group->sum(description, records);
  } else {
    prepare();
  }

  if (together != 0) {
    Backward(t, from, options.activation == Activation::relu, workspace_).fused(together);
    if (geometry.positions() != 0) {
      workspace_.sums.own_a = workspace_.sums.a;
      workspace_.sums.own_b = workspace_.sums.b;
    }
    keep_gradients(from, geometry.positions(), workspace_.sums);
  } else {
    finish_backward(from, t, records, !alone, workspace_);
  }
  if (sums != nullptr) *sums = workspace_.sums;
}

std::size_t SyncBatchNorm::Impl::backward_words(DType input) const {
  return static_cast<std::size_t>(num_features * exact::sum_format(input).words());
}

void SyncBatchNorm::Impl::start_backward(const Saved& from, const BackwardTensors& t,
                                         std::span<std::int64_t> records, bool of_group,
                                         layer::Workspace& work) const {
  const kernels::Geometry geometry = layer::geometry_of(t.x);
  work.resize_backward(num_features);
  if (records.empty()) return;
  Backward steps(t, from, options.activation == Activation::relu, work);
  const exact::Records sums(records.data(), exact::sum_format(t.x.dtype));
  kernels::accumulate(steps.gradient(), {t.x.data}, geometry, sums, kernels::Use::finish);
  if (of_group) steps.keep_own_sums(sums);
}

void SyncBatchNorm::Impl::finish_backward(const Saved& from, const BackwardTensors& t,
                                          std::span<const std::int64_t> records, bool of_group,
                                          layer::Workspace& work) {
  const std::int64_t positions = layer::geometry_of(t.x).positions();
  if (from.count != 0)
    Backward(t, from, options.activation == Activation::relu, work)
        .apply({records.data(), exact::sum_format(t.x.dtype)});
  if (!of_group && positions != 0) {
    work.sums.own_a = work.sums.a;
    work.sums.own_b = work.sums.b;
  }
  keep_gradients(from, positions, work.sums);
}

void SyncBatchNorm::Impl::keep_gradients(const Saved& from, std::int64_t positions,
                                         const BackwardSums& sums) {
  const bool of_group = is_collective(from) && options.affine_gradients == AffineGradients::group;
  const std::vector<double>& a = of_group ? sums.a : sums.own_a;
  const std::vector<double>& b = of_group ? sums.b : sums.own_b;
  // Without elements gradients are zero, whatever the statistics are.
  const bool empty = of_group ? from.count == 0 : positions == 0;
  for (std::int64_t c = 0; c < num_features && parameters.weight_grad; ++c) {
    const auto i = static_cast<std::size_t>(c);
    parameters.weight_grad->set(c, empty ? 0.0 : b[i] * from.invstd[i]);
    if (parameters.bias_grad) parameters.bias_grad->set(c, a[i]);
  }
}

}  // namespace syncbn
