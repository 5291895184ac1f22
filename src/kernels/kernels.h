// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "exact/record.h"
#include "kernels/types.h"
#include "syncbn/framework.h"

/// The one door to elements and to per-channel columns. Whoever calls stays away from both: tensors,
/// parameters, buffers and columns may lie in the memory of a device.
namespace syncbn::kernels {

/// View of one value per channel in the layer's dtype: a parameter, a buffer or a gradient. Absent if `data`
/// is null. Values are read as double, which is exact, and written with one rounding. Only kernels may touch
/// the elements.
struct Values {
  void* data = nullptr;
  DType dtype = DType::float32;

  explicit operator bool() const { return data != nullptr; }
  double operator[](std::int64_t channel) const {
    return with_storage(
        dtype, [&](auto* null) { return static_cast<double>(static_cast<decltype(null)>(data)[channel]); });
  }
  /// Calls body(channel, value) for channels from `first` to before `end`, if there are values.
  template <class Body>
  void for_each(std::int64_t first, std::int64_t end, const Body& body) const {
    if (data == nullptr) return;
    with_storage(dtype, [&](auto* null) {
      const auto* values = static_cast<decltype(null)>(data);
      for (std::int64_t c = first; c < end; ++c) body(c, static_cast<double>(values[c]));
    });
  }
  /// Sets channels to make(channel, old value).
  template <class Make>
  void update(std::int64_t channels, const Make& make) const {
    with_storage(dtype, [&](auto* null) {
      auto* values = static_cast<decltype(null)>(data);
      using Storage = std::remove_pointer_t<decltype(null)>;
      for (std::int64_t c = 0; c < channels; ++c) {
        values[c] = static_cast<Storage>(make(c, static_cast<double>(values[c])));
      }
    });
  }
};

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
  Saved& saved;
  Workspace& work;
};

/// A backward call of the forward that has left `saved`. The sums go to `sums`.
struct BackwardCall {
  Geometry geometry;
  GradientTensors tensors;
  const Saved& saved;
  BackwardSums& sums;
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
  const Saved& saved;
  const BackwardSums& sums;
  Column& own_q;  ///< From accumulate to double_differentiate.
};

/// True if the statistics are of a batch; else they are the running statistics.
inline bool is_of_batch(const Saved& saved) { return saved.statistics != Saved::Statistics::running; }

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

  /// Makes the columns zero, the result of a call without elements.
  virtual void clear(Saved& saved) const = 0;
  virtual void clear(BackwardSums& sums) const = 0;

  /// Sets all channels to `value`.
  virtual void fill(const Values& values, std::int64_t channels, double value) const = 0;

  // ---- Forward
  /// Sets the records, one a channel, to Σx and Σx² of this rank, as digits for the wire.
  virtual void accumulate(const ForwardCall& call, exact::Records records) const = 0;
  /// Computes statistics from the records of the whole batch, then y.
  virtual void normalize(const ForwardCall& call, exact::ConstRecords records) const = 0;
  /// The same with the batch of this rank alone: accumulates, too.
  virtual void normalize_alone(const ForwardCall& call) const = 0;
  /// Computes y from running statistics. There is no unbiased variance: its column is zero.
  virtual void normalize_by(const ForwardCall& call, const RunningStatistics& running) const = 0;
  /// The first channel whose mean or unbiased variance is not finite.
  virtual std::optional<NonfiniteChannel> find_nonfinite(const Saved& saved) const = 0;
  /// Moves the running statistics and the counter. Without momentum the new batch weighs 1 / (batches + 1).
  /// `skip_nonfinite`: channels whose statistics are not finite stay.
  virtual void track(const RunningStatistics& running, const Saved& saved, std::optional<double> momentum,
                     bool skip_nonfinite) const = 0;

  // ---- Backward
  /// Sets the records to Σdy' and Σdy'·x of this rank, as digits for the wire, and the own sums.
  virtual void accumulate(const BackwardCall& call, exact::Records records) const = 0;
  /// Computes sums from the records of the whole batch, then dx and d_residual.
  virtual void differentiate(const BackwardCall& call, exact::ConstRecords records) const = 0;
  /// The same with the batch of this rank alone: accumulates, too. The own sums are then the sums.
  virtual void differentiate_alone(const BackwardCall& call) const = 0;
  /// weight_grad = b·invstd, bias_grad = a; each if present. `empty`: both are zero.
  virtual void affine_gradients(const Values& weight_grad, const Values& bias_grad, const Column& a,
                                const Column& b, const Column& invstd, bool empty) const = 0;

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
/// Makes a device known. Not thread-safe: called before the first layer is made and other threads start.
void add_device(Device device, const DeviceEntry& entry);
/// The entry of a device, or null if the library has none.
const DeviceEntry* find_device(Device device);
/// "cpu:0"
std::string to_string(Device device);
/// The devices that the library has, in words.
std::string known_devices();

}  // namespace syncbn::kernels
