// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "syncbn/dtype.h"
#include "syncbn/tensor.h"

/// The seam between the library and a device: a table of functions, which libsyncbn_cuda.so
/// exports. Nothing else of syncbn knows the device's runtime. Functions return a code of the
/// runtime; 0: done. All work is queued on `stream`, but copies, which wait.
namespace syncbn::device {

/// Sizes and memory order of the tensors of a call.
struct Shape {
  DType dtype;
  Layout layout;
  std::int64_t samples, channels, spatial;
  std::int64_t most_blocks = 0;  ///< Limit for each kernel; 0: as many as fill it.
};
/// One value per channel in the layer's dtype; absent if `data` is null.
struct ValuesArgument {
  void* data;
  DType dtype;
};

struct AccumulateArguments {
  Shape shape;
  const void *a, *b, *mask;  ///< b is null for squares.
  std::int64_t* records;     ///< Set to the sums of this rank.
  bool for_wire;             ///< With propagated carries.
};
struct ForwardColumnsArgument {
  double *mean, *var, *invstd, *var_unbiased, *scale;
};
struct FinishForwardArguments {
  DType dtype;
  std::int64_t channels, count;
  double eps;
  ValuesArgument weight, bias;
  ForwardColumnsArgument saved;
  void *mean_hi, *k, *shift;  ///< Columns of the compute type.
};
struct FinishBackwardArguments {
  DType dtype;
  std::int64_t channels, count;
  bool of_batch;
  const double *mean, *invstd, *scale;
  double *a, *b, *own_a, *own_b;  ///< own_a and own_b may be null.
  void *mean_hi, *k, *c2, *c1;    ///< Null: sums alone.
};
struct NormalizeArguments {
  Shape shape;
  const void *x, *residual;
  void* y;
  void *mean_hi, *k, *shift;
  bool relu;
};
struct DifferentiateArguments {
  Shape shape;
  const void *dy, *x, *y;
  void *dx, *d_residual;
  void *mean_hi, *k, *c2, *c1;
  bool of_batch;
};
struct TrackArguments {
  ValuesArgument mean, var;
  std::int64_t* batches;
  const double *batch_mean, *batch_var_unbiased;
  std::int64_t channels;
  bool has_momentum, skip_nonfinite;
  double momentum;
};
struct AffineArguments {
  ValuesArgument weight_grad, bias_grad;
  const double *a, *b, *invstd;
  std::int64_t channels;
  bool empty;
};

struct Api {
  std::int64_t version;  ///< kApiVersion of the library's build.
  const char* (*describe)(int code);
  int (*count)(int* devices);
  /// Makes a device the calling thread's, and tells which one was.
  int (*use)(int device, int* before);
  int (*allocate)(std::size_t bytes, void** memory);
  int (*release)(void* memory);
  /// Between the host and the device, or within one of them. Waits.
  int (*copy)(void* to, const void* from, std::size_t bytes, void* stream);
  int (*clear)(void* memory, std::size_t bytes, void* stream);
  int (*accumulate)(const AccumulateArguments*, void* stream);
  /// `records` is followed by a word a channel, which the kernels use.
  int (*finish_forward)(const FinishForwardArguments*, std::int64_t* records, void* stream);
  int (*finish_running)(const FinishForwardArguments*, ValuesArgument mean, ValuesArgument var, void* stream);
  int (*finish_backward)(const FinishBackwardArguments*, std::int64_t* records, void* stream);
  int (*normalize)(const NormalizeArguments*, void* stream);
  int (*differentiate)(const DifferentiateArguments*, void* stream);
  int (*track)(const TrackArguments*, void* stream);
  int (*affine_gradients)(const AffineArguments*, void* stream);
  int (*fill)(ValuesArgument values, std::int64_t channels, double value, void* stream);
  /// Lowers *first to the first channel whose mean or unbiased variance is not finite.
  int (*find_nonfinite)(const double* mean, const double* var_unbiased, std::int64_t channels,
                        std::int64_t* first, void* stream);
};
inline constexpr std::int64_t kApiVersion = 1;

}  // namespace syncbn::device
