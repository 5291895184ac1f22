#pragma once

#include <cstdint>

#include "kernels/batch.h"

namespace syncbn::kernels {

/// Coefficients of a run of elements in memory: one for all of them (a channel's row), or one an element
/// (channels-last).
template <class T>
struct NormalizeSegment {
  const T *mean_hi, *k, *shift;
  bool per_element;
  bool relu;
};
template <class T>
struct GradientSegment {
  const T *mean_hi, *k, *c2, *c1;
  bool per_element;
  bool of_batch;  ///< The statistics were those of the batch that dx belongs to.
};

/// Coefficients of all channels, arrays of (C,) in the compute type of the tensors' dtype: double for
/// float64, else float.
struct NormalizeCoefficients {
  const void *mean_hi, *k, *shift;
};
struct GradientCoefficients {
  const void *mean_hi, *k, *c2, *c1;
  bool of_batch;
};

/// y = relu(fma(x − mean_hi, k, shift) + residual), the last two where wanted; residual may be null.
void normalize(const void* x, const void* residual, void* y, const Geometry& geometry,
               const NormalizeCoefficients& c, bool relu);

/// dx and d_residual where not null; y (the forward's output) is null where there was no ReLU. dx may be dy.
void differentiate(const void* dy, const void* x, const void* y, void* dx, void* d_residual,
                   const Geometry& geometry, const GradientCoefficients& c);

}  // namespace syncbn::kernels
