// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "base/host_device.h"
#include "exact/record.h"
#include "exact/wide_int.h"

/// From a channel's exact sums to coefficients: the arithmetic of bits_version 1. Each rounding is in sight.
/// docs/design.md states the arithmetic; a changed bit here is a new bits_version.
namespace syncbn::exact {

#if defined(__FAST_MATH__)
#error "syncbn: fast-math deletes the roundings that the results are made of"
#endif

/// Statistics of one channel over `count` elements.
struct Statistics {
  double mean;
  double var;           ///< biased, m2 / n / n
  double var_unbiased;  ///< m2 / n / (n - 1)
  double invstd;        ///< 1 / sqrt(var + eps)
};

/// fl64(Σa), or the special value.
double rounded_sum(ConstRecord record);
/// fl64(Σa·b − mean·Σa): exact, rounded once. If a sum is special or mean is not finite: computed in double.
double centred_product(ConstRecord record, double mean);
/// 1 / sqrt(var + eps)
SYNCBN_DEVICE inline double inverse_std(double var, double eps) {
  const double shifted = var + eps;
  return 1 / std::sqrt(shifted);
}
/// mean = S1 / n, m2 = fl64(n·S2 − S1²), var = m2 / n / n; count > 0. The record holds S1 = Σx, S2 = Σx².
Statistics statistics(ConstRecord record, std::int64_t count, double eps);

/// The same in two steps. The first works on integers of fixed size, which are enough for ordinary data; it
/// returns false if a record needs more. The second is for every record. Its integers take 3 KB, which a GPU
/// has in shared memory alone, so there each step is a kernel.
struct WideWork {
  WideInt sum, product, factor, left, right;
};
SYNCBN_DEVICE bool ordinary_sum(ConstRecord record, double& result);
SYNCBN_DEVICE double wide_sum(ConstRecord record, WideWork& work);
SYNCBN_DEVICE bool ordinary_centred_product(ConstRecord record, double mean, double& result);
SYNCBN_DEVICE double wide_centred_product(ConstRecord record, double mean, WideWork& work);
SYNCBN_DEVICE bool ordinary_statistics(ConstRecord record, std::int64_t count, double eps,
                                       Statistics& result);
SYNCBN_DEVICE Statistics wide_statistics(ConstRecord record, std::int64_t count, double eps, WideWork& work);

/// (1 − factor)·running + factor·batch, not yet rounded to the layer's dtype.
SYNCBN_DEVICE inline double running_update(double running, double batch, double factor) {
  const double keep = 1 - factor;
  const double kept = keep * running;
  const double added = factor * batch;
  return kept + added;
}

/// y = fma(x − mean_hi, k, shift) in the compute type T: float for 16- and 32-bit input, double for float64.
/// `Value` is T for one channel, T* for columns of (C,), or a vector of T.
template <class Value>
struct ForwardCoefficients {
  Value mean_hi, k, shift;
};
/// scale = weight · invstd; bias is 0 if the layer has none.
template <class T>
SYNCBN_DEVICE ForwardCoefficients<T> forward_coefficients(double mean, double scale, double bias) {
  const T mean_hi = static_cast<T>(mean);
  const double mean_lo = mean - static_cast<double>(mean_hi);
  const double correction = mean_lo * scale;
  return {mean_hi, static_cast<T>(scale), static_cast<T>(bias - correction)};
}

/// dx = fma(k, dy, fma(c2, x − mean_hi, c1)) in the compute type T; `Value` as above.
template <class Value>
struct BackwardCoefficients {
  Value mean_hi, k, c2, c1;
};
/// a = fl64(A), d = fl64(B − mean·A), over n elements.
template <class T>
SYNCBN_DEVICE BackwardCoefficients<T> backward_coefficients(double mean, double invstd, double scale,
                                                            double a, double d, double n) {
  const T mean_hi = static_cast<T>(mean);
  const double mean_lo = mean - static_cast<double>(mean_hi);
  const double invvar = invstd * invstd;
  const double slope = scale * invvar;
  const double c2 = -slope * (d / n);
  const double level = scale * (a / n);
  const double correction = c2 * mean_lo;
  return {mean_hi, static_cast<T>(scale), static_cast<T>(c2), static_cast<T>(-level - correction)};
}

}  // namespace syncbn::exact
