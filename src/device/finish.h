// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/format16.h"
#include "device/digits.h"
#include "exact/finish.h"

/// Kernels from records to statistics, sums and coefficients. The arithmetic is that of src/exact. A thread
/// takes a channel. Ordinary data needs integers of fixed size alone, which are in registers. Channels with
/// other data are left to a second kernel, whose integers are in shared memory: as local memory they would
/// take 3 KB of each thread that the GPU can hold, 800 MB on 132 processors.
namespace syncbn::device {

/// One value per channel in the layer's dtype, as kernels::Values. Absent if `data` is null.
struct Values {
  void* data;
  DType dtype;

  SYNCBN_SIMT double read(std::int64_t channel, double otherwise) const {
    if (data == nullptr) return otherwise;
    if (dtype == DType::float64) return static_cast<const double*>(data)[channel];
    if (dtype == DType::float32) return static_cast<double>(static_cast<const float*>(data)[channel]);
    return base::decode(static_cast<const std::uint16_t*>(data)[channel],
                        dtype == DType::float16 ? base::half_format() : base::brain_format());
  }
  /// Rounds once.
  SYNCBN_SIMT void write(std::int64_t channel, double value) const {
    if (dtype == DType::float64) {
      static_cast<double*>(data)[channel] = value;
    } else if (dtype == DType::float32) {
      static_cast<float*>(data)[channel] = static_cast<float>(value);
    } else {
      static_cast<std::uint16_t*>(data)[channel] =
          base::encode(value, dtype == DType::float16 ? base::half_format() : base::brain_format());
    }
  }
};

/// Columns of a forward call: see Saved.
struct ForwardColumns {
  double *mean, *var, *invstd, *var_unbiased, *scale;
};
struct RunningColumns {
  Values mean, var;
};
template <class T>
struct ForwardFinish {
  std::int64_t channels, count;
  double eps;
  Values weight, bias;
  ForwardColumns saved;
  exact::ForwardCoefficients<T*> to;
};

/// Columns of a backward call: see Saved and BackwardSums. `own_a` and `own_b` may be null.
struct SumColumns {
  const double* mean;
  double *a, *b, *own_a, *own_b;
};
template <class T>
struct BackwardFinish {
  std::int64_t channels, count;
  bool of_batch;
  const double *mean, *invstd, *scale;
  SumColumns sums;
  exact::BackwardCoefficients<T*> to;  ///< Null: not wanted.
};

/// Records, and a word a channel: 1 if the channel is left to the second kernel.
template <class Storage>
struct Records {
  std::int64_t *words, *left;
  SYNCBN_SIMT exact::ConstRecord record(std::int64_t channel, const exact::SumFormat& format) const {
    return {words + channel * format.words(), format};
  }
  SYNCBN_SIMT void propagate(std::int64_t channel) const {
    constexpr exact::SumFormat format = kFormat<Storage>;
    std::int64_t* const own = words + channel * format.words();
    exact::propagate_carries(own, format.sum_digits);
    exact::propagate_carries(own + format.sum_digits, format.product_digits);
  }
};

SYNCBN_SIMT std::int64_t channel_of_thread() {
  const simt::Place place = simt::here();
  return static_cast<std::int64_t>(place.block) * place.threads + place.thread;
}

/// Propagates the carries of all records, for the wire.
template <class Storage>
SYNCBN_KERNEL void propagate_records(Records<Storage> records, std::int64_t channels) {
  const std::int64_t c = channel_of_thread();
  if (c < channels) records.propagate(c);
}

template <class T>
SYNCBN_SIMT void set_coefficients(const ForwardFinish<T>& call, std::int64_t c) {
  const double scale = call.weight.read(c, 1) * call.saved.invstd[c];
  call.saved.scale[c] = scale;
  const auto made = exact::forward_coefficients<T>(call.saved.mean[c], scale, call.bias.read(c, 0));
  call.to.mean_hi[c] = made.mean_hi;
  call.to.k[c] = made.k;
  call.to.shift[c] = made.shift;
}
template <class T>
SYNCBN_SIMT void set_statistics(const ForwardFinish<T>& call, std::int64_t c, const exact::Statistics& made) {
  call.saved.mean[c] = made.mean;
  call.saved.var[c] = made.var;
  call.saved.invstd[c] = made.invstd;
  call.saved.var_unbiased[c] = made.var_unbiased;
  set_coefficients(call, c);
}
template <class T>
SYNCBN_SIMT void set_sums(const BackwardFinish<T>& call, std::int64_t c, double a, double b) {
  call.sums.a[c] = a;
  call.sums.b[c] = b;
  if (call.sums.own_a != nullptr) {
    call.sums.own_a[c] = a;
    call.sums.own_b[c] = b;
  }
  if (call.to.k == nullptr) return;
  exact::BackwardCoefficients<T> made{0, static_cast<T>(call.scale[c]), 0, 0};
  if (call.of_batch) {
    made = exact::backward_coefficients<T>(call.mean[c], call.invstd[c], call.scale[c], a, b,
                                           static_cast<double>(call.count));
  }
  call.to.mean_hi[c] = made.mean_hi;
  call.to.k[c] = made.k;
  call.to.c2[c] = made.c2;
  call.to.c1[c] = made.c1;
}

/// Statistics and coefficients of the channels with ordinary data.
template <class Storage>
SYNCBN_KERNEL void finish_forward(Records<Storage> records, ForwardFinish<kernels::Compute<Storage>> call) {
  const std::int64_t c = channel_of_thread();
  if (c >= call.channels) return;
  records.propagate(c);
  const exact::SumFormat format = kFormat<Storage>;
  exact::Statistics made;
  const bool ordinary = exact::ordinary_statistics(records.record(c, format), call.count, call.eps, made);
  records.left[c] = ordinary ? 0 : 1;
  if (ordinary) set_statistics(call, c, made);
}
/// The same for sums of a backward.
template <class Storage>
SYNCBN_KERNEL void finish_backward(Records<Storage> records, BackwardFinish<kernels::Compute<Storage>> call) {
  const std::int64_t c = channel_of_thread();
  if (c >= call.channels) return;
  records.propagate(c);
  const exact::SumFormat format = kFormat<Storage>;
  const exact::ConstRecord record = records.record(c, format);
  double a = 0, b = 0;
  const bool ordinary =
      exact::ordinary_sum(record, a) && exact::ordinary_centred_product(record, call.sums.mean[c], b);
  records.left[c] = ordinary ? 0 : 1;
  if (ordinary) set_sums(call, c, a, b);
}

/// Threads of a block of the second kernels: their integers take 24 KB.
inline constexpr unsigned kWideThreads = 8;
struct WideWorks {
  exact::WideWork of[kWideThreads];
};
template <class Storage>
SYNCBN_KERNEL void finish_forward_left(Records<Storage> records,
                                       ForwardFinish<kernels::Compute<Storage>> call) {
  const std::int64_t c = channel_of_thread();
  if (c >= call.channels || records.left[c] == 0) return;
  const exact::SumFormat format = kFormat<Storage>;
  exact::WideWork& work = simt::shared<WideWorks>().of[simt::here().thread];
  set_statistics(call, c, exact::wide_statistics(records.record(c, format), call.count, call.eps, work));
}
template <class Storage>
SYNCBN_KERNEL void finish_backward_left(Records<Storage> records,
                                        BackwardFinish<kernels::Compute<Storage>> call) {
  const std::int64_t c = channel_of_thread();
  if (c >= call.channels || records.left[c] == 0) return;
  const exact::SumFormat format = kFormat<Storage>;
  const exact::ConstRecord record = records.record(c, format);
  exact::WideWork& work = simt::shared<WideWorks>().of[simt::here().thread];
  const double a = exact::wide_sum(record, work);
  set_sums(call, c, a, exact::wide_centred_product(record, call.sums.mean[c], work));
}

/// Coefficients from running statistics.
template <class T>
SYNCBN_KERNEL void finish_running(ForwardFinish<T> call, RunningColumns running) {
  const std::int64_t c = channel_of_thread();
  if (c >= call.channels) return;
  call.saved.mean[c] = running.mean.read(c, 0);
  call.saved.var[c] = running.var.read(c, 0);
  call.saved.invstd[c] = exact::inverse_std(call.saved.var[c], call.eps);
  call.saved.var_unbiased[c] = 0;
  set_coefficients(call, c);
}

}  // namespace syncbn::device
