#pragma once

#include <cstdint>

#include "kernels/batch.h"

namespace syncbn::kernels {

/// Coefficients of some rows of memory: one for each row (channels-first: a row is of one channel), or one
/// for each element, the same in all rows (channels-last).
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

struct NormalizeTensors {
  const void *x, *residual;  ///< residual may be null.
  void* y;
};
struct GradientTensors {
  const void *dy, *x, *y;  ///< y, the forward's output, is null where there was no ReLU.
  void *dx, *d_residual;   ///< May be null; dx may be dy.
};

/// How results reach memory. Streaming passes by the caches: what is written is not read first, and drives
/// nothing out.
enum class Write { cached, streaming };
/// What pays for tensors of this size, of which so many channels are written at a time.
Write write_for(const Geometry& geometry, std::int64_t channels);

/// y = relu(fma(x − mean_hi, k, shift) + residual), the last two where wanted. Of a part, on this thread
/// alone.
void normalize(const NormalizeTensors& t, const Geometry& geometry, const Part& part,
               const NormalizeCoefficients& c, bool relu, Write write);
/// dx and d_residual where not null.
void differentiate(const GradientTensors& t, const Geometry& geometry, const Part& part,
                   const GradientCoefficients& c, Write write);

/// The same for the whole batch, in parallel.
void normalize(const NormalizeTensors& t, const Geometry& geometry, const NormalizeCoefficients& c,
               bool relu);
void differentiate(const GradientTensors& t, const Geometry& geometry, const GradientCoefficients& c);

}  // namespace syncbn::kernels
