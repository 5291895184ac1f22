// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "exact/record.h"
#include "kernels/types.h"
#include "kernels/values.h"
#include "syncbn/column.h"
#include "syncbn/tensor.h"

/// The one door to elements and to per-channel columns. Whoever calls stays away from both: tensors,
/// parameters, buffers and columns may lie in the memory of a device.
namespace syncbn::kernels {

/// Columns of (C,) doubles that a forward leaves for its backward: those of Saved.
template <class T>
struct StatisticsOf {
  T *mean, *var, *invstd, *scale, *var_unbiased;

  // NOLINTNEXTLINE(google-explicit-constructor): what may be written may be read
  operator StatisticsOf<const T>() const { return {mean, var, invstd, scale, var_unbiased}; }
};
using StatisticsColumns = StatisticsOf<double>;
using ConstStatisticsColumns = StatisticsOf<const double>;
/// Columns of (C,) doubles that a backward makes: those of BackwardSums.
template <class T>
struct SumsOf {
  T *a, *b, *own_a, *own_b;
};
using SumsColumns = SumsOf<double>;
using ConstSumsColumns = SumsOf<const double>;

/// Memory of the device that the kernels keep for a layer from call to call, per channel. A call like the one
/// before allocates nothing.
class Workspace {
 public:
  explicit Workspace(const DeviceMemory& memory) : memory_(memory) {}

  /// Four columns of the compute type for `channels`. Each begins with a cache line: vectors that lie across
  /// two lines cost 7 % of an evaluation in channels-last (AVX-512).
  template <class T>
  T* column(int i) {
    return reinterpret_cast<T*>(static_cast<std::byte*>(columns_.data()) +
                                static_cast<std::size_t>(i) * (columns_.bytes() / 4));
  }
  void resize_columns(std::int64_t channels) {
    constexpr std::size_t kLine = 64;
    columns_.resize(4 * kLine * ((static_cast<std::size_t>(channels) + 7) / 8), memory_);
  }
  /// Records of `channels`, with any content.
  exact::Records records(std::int64_t channels, const exact::SumFormat& format) {
    const std::size_t bytes = static_cast<std::size_t>(channels * format.words()) * sizeof(std::int64_t);
    if (records_.bytes() < bytes) records_.resize(bytes, memory_);
    return {static_cast<std::int64_t*>(records_.data()), format};
  }

 private:
  const DeviceMemory& memory_;
  DeviceBuffer columns_, records_;
};

/// A forward call. Its statistics go to `saved`.
struct ForwardCall {
  Geometry geometry;
  NormalizeTensors tensors;
  Values weight, bias;
  double eps;
  bool relu;
  std::int64_t count;  ///< Elements per channel behind the statistics.
  StatisticsColumns saved;
  Workspace& work;
};

/// A backward call of the forward that has left `saved`. Its sums A = Σdy' and B = Σdy'·(x − mean) go to
/// `sums`.
struct BackwardCall {
  Geometry geometry;
  GradientTensors tensors;
  bool of_batch;       ///< Whether the statistics are of a batch; else they are the running statistics.
  std::int64_t count;  ///< Elements per channel behind the statistics.
  ConstStatisticsColumns saved;
  SumsColumns sums;
  Workspace& work;
};

/// A double backward call: see double_backward.h for the arithmetic.
struct DoubleBackwardCall {
  Geometry geometry;
  const void *dy, *x, *y;         ///< y is null without ReLU.
  const void *ddx, *dd_residual;  ///< May be null: zero.
  void *d_dy, *d_x;               ///< May be null: not wanted.
  Values dd_weight, dd_bias;      ///< Absent: zero.
  Values d_weight;                ///< Absent: not wanted.
  bool of_batch;
  std::int64_t count;
  ConstStatisticsColumns saved;
  ConstSumsColumns sums;
  double* own_q;  ///< (C,): from accumulate to double_differentiate.
};

/// Sums of products of two matrices' columns, c_ij = Σ a_ni·b_nj over the rows n of all ranks. A call takes
/// some of the products, in the order of c's memory.
struct MatmulCall {
  DType dtype;  ///< float32 or float64.
  std::int64_t rows, a_columns, b_columns;
  const void *a, *b;
  void* c;
  std::int64_t first, products;
};

/// Running statistics and their counter, which `track` moves.
struct RunningStatistics {
  Values mean, var;
  std::int64_t* batches;
};

/// A channel whose mean or variance is not finite.
struct NonfiniteChannel {
  std::int64_t channel;
  double mean, var;
};

/// All work on elements and columns, for one dtype on one device. The objects have no state.
class Kernels {
 public:
  virtual ~Kernels() = default;

  /// Makes the columns zero: the result of a call without elements.
  virtual void clear(const StatisticsColumns& columns, std::int64_t channels) const = 0;
  virtual void clear(const SumsColumns& columns, std::int64_t channels) const = 0;

  /// Sets all channels to `value`.
  virtual void fill(const Values& values, std::int64_t channels, double value) const = 0;

  // ---- Forward
  /// Sets the records, one a channel, to Σx and Σx² of this rank, as digits for the wire.
  virtual void accumulate(const ForwardCall& call, exact::Records records) const = 0;
  /// Computes statistics from the records of the whole batch, then y.
  virtual void normalize(const ForwardCall& call, exact::ConstRecords records) const = 0;
  /// The same with the batch of this rank alone: accumulates, too.
  virtual void normalize_alone(const ForwardCall& call) const = 0;
  /// Computes y from running statistics.
  virtual void normalize_by(const ForwardCall& call, const RunningStatistics& running) const = 0;
  /// The first channel whose mean or unbiased variance is not finite.
  virtual std::optional<NonfiniteChannel> find_nonfinite(const ConstStatisticsColumns& saved,
                                                         std::int64_t channels) const = 0;
  /// Moves the running statistics and the counter. Without momentum the new batch weighs 1 / (batches + 1).
  /// `skip_nonfinite`: channels whose statistics are not finite stay.
  virtual void track(const RunningStatistics& running, const ConstStatisticsColumns& saved,
                     std::int64_t channels, std::optional<double> momentum, bool skip_nonfinite) const = 0;

  // ---- Backward
  /// Sets the records to Σdy' and Σdy'·x of this rank, as digits for the wire, and the own sums.
  virtual void accumulate(const BackwardCall& call, exact::Records records) const = 0;
  /// Computes sums from the records of the whole batch, then dx and d_residual.
  virtual void differentiate(const BackwardCall& call, exact::ConstRecords records) const = 0;
  /// The same with the batch of this rank alone: accumulates, too. The own sums are then the sums.
  virtual void differentiate_alone(const BackwardCall& call) const = 0;
  /// weight_grad = b·invstd, bias_grad = a; each if present. `empty`: both are zero.
  virtual void affine_gradients(const Values& weight_grad, const Values& bias_grad, const double* a,
                                const double* b, const double* invstd, std::int64_t channels,
                                bool empty) const = 0;

  // ---- Double backward
  /// Length of the message for so many channels.
  virtual std::size_t double_backward_words(std::int64_t channels) const = 0;
  /// Writes this rank's sums to a message of zeros.
  virtual void accumulate(const DoubleBackwardCall& call, std::span<std::int64_t> message) const = 0;
  virtual void double_differentiate(const DoubleBackwardCall& call,
                                    std::span<const std::int64_t> message) const = 0;

  // ---- Products of matrices
  /// Adds this rank's products to a message of zeros: a row of exact/value_row.h for each.
  virtual void accumulate(const MatmulCall& call, std::span<std::int64_t> message) const = 0;
  /// Writes the sums to c, each rounded once.
  virtual void round(const MatmulCall& call, std::span<const std::int64_t> message) const = 0;
};

/// What the library knows of a device: its memory, and its kernels for each dtype.
struct DeviceEntry {
  const char* name;
  const DeviceMemory& memory;
  const Kernels& (*kernels)(DType dtype);
};
/// The CPU. Its kernels are vector code of the instruction set in use or, if it has none, the plain loops.
const DeviceEntry& cpu();
/// Makes a device known. Called before the first layer on that device is made.
void add_device(Device device, const DeviceEntry& entry);
/// The entry of a device, or null if the library has none.
const DeviceEntry* find_device(Device device);
/// "cpu:0"
std::string to_string(Device device);

}  // namespace syncbn::kernels
