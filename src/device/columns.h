// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/finish.h"

/// Kernels on values per channel: running statistics, gradients of weight and bias, initial values.
namespace syncbn::device {

SYNCBN_SIMT bool is_finite(double value) {
  return (std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ff) != 0x7ff;
}

SYNCBN_KERNEL void fill(Values values, std::int64_t channels, double value) {
  const std::int64_t c = channel_of_thread();
  if (c < channels) values.write(c, value);
}

struct Track {
  RunningColumns running;
  const std::int64_t* batches;  ///< The counter, not yet moved.
  const double *mean, *var_unbiased;
  std::int64_t channels;
  bool has_momentum, skip_nonfinite;
  double momentum;
};
/// Moves running statistics. The counter is moved after it, by count_batch.
SYNCBN_KERNEL void track(Track call) {
  const std::int64_t c = channel_of_thread();
  if (c >= call.channels) return;
  const double factor = call.has_momentum ? call.momentum : 1 / static_cast<double>(*call.batches + 1);
  if (call.skip_nonfinite && !(is_finite(call.mean[c]) && is_finite(call.var_unbiased[c]))) return;
  const Values& mean = call.running.mean;
  const Values& var = call.running.var;
  mean.write(c, exact::running_update(mean.read(c, 0), call.mean[c], factor));
  var.write(c, exact::running_update(var.read(c, 0), call.var_unbiased[c], factor));
}
SYNCBN_KERNEL void count_batch(std::int64_t* batches) {
  if (channel_of_thread() == 0) *batches += 1;
}

struct AffineGradients {
  Values weight_grad, bias_grad;
  const double *a, *b, *invstd;
  std::int64_t channels;
  bool empty;
};
SYNCBN_KERNEL void affine_gradients(AffineGradients call) {
  const std::int64_t c = channel_of_thread();
  if (c >= call.channels) return;
  call.weight_grad.write(c, call.empty ? 0.0 : call.b[c] * call.invstd[c]);
  if (call.bias_grad.data != nullptr) call.bias_grad.write(c, call.a[c]);
}

/// Lowers `first` to the first channel whose mean or unbiased variance is not finite.
SYNCBN_KERNEL void find_nonfinite(const double* mean, const double* var_unbiased, std::int64_t channels,
                                  std::int64_t* first) {
  const std::int64_t c = channel_of_thread();
  if (c < channels && !(is_finite(mean[c]) && is_finite(var_unbiased[c]))) simt::atomic_min(first, c);
}

}  // namespace syncbn::device
