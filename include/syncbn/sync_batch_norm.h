// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "syncbn/column.h"
#include "syncbn/dtype.h"
#include "syncbn/export.h"
#include "syncbn/tensor.h"

namespace syncbn {

class FrameworkHooks;
class Group;
class JointCall;

/// Elements that the gradients of weight and bias are summed over.
enum class AffineGradients : std::uint8_t {
  local,  ///< This rank's share of the batch; a data-parallel program adds up the ranks' gradients itself.
  group,  ///< The whole group's batch; the gradients are the same on every rank.
};

/// Treatment, in a training forward, of channels whose statistics are not finite.
enum class Nonfinite : std::uint8_t {
  propagate,    ///< The running statistics become non-finite, too.
  skip_update,  ///< The running statistics of these channels stay; other channels and the counter move on.
  error,        ///< InvalidArgument on every rank, before any state changes.
};

/// Function applied after the normalization and after the residual is added.
enum class Activation : std::uint8_t {
  none,  ///< The identity.
  relu,  ///< max(y, 0); NaN stays NaN.
};

/// Ranks that share statistics: none, the world; a name given to create_group; or a group of make_group.
using ProcessGroup = std::variant<std::monostate, std::string, std::shared_ptr<Group>>;

/// Settings of a layer. All but process_group and name must be equal on every rank of the group.
struct SyncBatchNormOptions {
  /// Added to the biased variance before the square root; finite, >= 0.
  double eps = 1e-5;
  /// Weight of the new value in the running statistics, in [0, 1]; none: 1 / num_batches_tracked.
  std::optional<double> momentum = 0.1;
  /// True if weight and bias exist.
  bool affine = true;
  /// True if a layer with affine = true has a bias; false: a weight alone.
  bool bias = true;
  /// True if running statistics exist. Without them an evaluation uses the statistics of the local batch.
  bool track_running_stats = true;
  /// The ranks that share statistics.
  ProcessGroup process_group = {};
  /// Element type of weight, bias, running_mean and running_var; the input may have another one.
  DType dtype = DType::float32;
  /// Elements that weight_grad and bias_grad are summed over.
  AffineGradients affine_gradients = AffineGradients::local;
  /// Treatment, in a training forward, of channels whose statistics are not finite.
  Nonfinite nonfinite = Nonfinite::propagate;
  /// Function applied to y.
  Activation activation = Activation::none;
  /// Identifies the layer in messages and among the group's layers; empty: numbered in order of construction.
  std::string name = {};
  /// Holds the layer's parameters, buffers and gradients, and all tensors that the layer is given.
  Device device = {};
};

/// Values per channel that a forward leaves for its backward: a head on the host, and columns on the device
/// of the tensors. x, and y under relu, are passed again.
struct Saved {
  /// The statistics that the forward used.
  enum class Statistics : std::uint8_t {
    none,         ///< No forward has been made.
    group_batch,  ///< Training: the group's batch; the backward joins the group's sum.
    local_batch,  ///< Evaluation without running statistics: this rank's batch; nothing is sent.
    running,      ///< Evaluation: the running statistics; nothing is sent.
  };
  Statistics statistics = Statistics::none;
  std::int64_t count = 0;    ///< Elements per channel behind the statistics.
  Column mean = {};          ///< (C,)
  Column var = {};           ///< (C,) biased
  Column invstd = {};        ///< (C,) 1 / sqrt(var + eps)
  Column scale = {};         ///< (C,) weight * invstd
  Column var_unbiased = {};  ///< (C,) Training only.

  static constexpr Column Saved::*kColumns[] = {&Saved::mean, &Saved::var, &Saved::invstd, &Saved::scale,
                                                &Saved::var_unbiased};
};

/// Writable view of one parameter, buffer or gradient of a layer. Valid as long as the layer, or as the
/// memory that FrameworkHooks::bind was given.
struct StateEntry {
  std::string name = {};  ///< weight, bias, running_mean, running_var, num_batches_tracked; *_grad
  void* data = nullptr;
  std::optional<DType> dtype = std::nullopt;  ///< none: int64
  std::size_t size = 0;                       ///< Number of elements: num_features, or 1.
  Device device = {};                         ///< Device that holds the elements: the layer's.
};

/// Tensors of one forward call. y must not be x, since the backward needs x.
struct ForwardTensors {
  ConstTensorView x;  ///< (N, C, spatial...), N may be 0.
  TensorView y;       ///< Shape, dtype and layout of x; overlaps no input.
  std::optional<ConstTensorView> residual = std::nullopt;  ///< Added before the activation; like x.
};

/// Tensors of one backward call; all have the shape, dtype and layout of x.
struct BackwardTensors {
  ConstTensorView dy;                                   ///< Gradient with respect to y.
  ConstTensorView x;                                    ///< The forward's x.
  std::optional<ConstTensorView> y = std::nullopt;      ///< The forward's y; needed under relu.
  std::optional<TensorView> dx = std::nullopt;          ///< Result: gradient of x, if wanted; may be dy.
  std::optional<TensorView> d_residual = std::nullopt;  ///< Result: gradient of the residual, if wanted.
};

/// Batch normalization with the statistics of a whole group of ranks.
///
///     y = (x - mean) / sqrt(var + eps) * weight + bias,   per channel
///
/// (Ioffe and Szegedy 2015, algorithm 1). Mean and biased variance are those of all N*H*W... elements that
/// the ranks of the group bring. Shares may be uneven or empty. Statistics, y, dx and running statistics have
/// the same bits for every number of ranks, split, thread count, layout and instruction set; docs/design.md
/// gives each rounding.
///
///     syncbn::init();
///     syncbn::SyncBatchNorm bn(64);
///     const syncbn::Shape shape{8, 64, 14, 14};
///     bn.forward({.x = view(x, shape), .y = view(y, shape)});
///     bn.backward({.dy = view(dy, shape), .x = view(x, shape), .dx = view(dx, shape)});
///
/// Calls in training are collective: every rank of the group makes the same calls in the same order. A
/// difference is a MismatchError on every rank. A failed call changes nothing in the layer. A layer is used
/// by one thread at a time, and in run_ranks only by the rank that made it: its training call on another
/// rank's thread is a GroupError.
class SYNCBN_API SyncBatchNorm {
 public:
  /// Makes a layer in training mode, with weight 1, bias 0, running_mean 0 and running_var 1. Local: waits
  /// for no peer. Without init() the layer looks the world up at its first training call.
  /// @throws InvalidArgument num_features outside [1, 2^31]; eps negative or not finite; momentum outside
  /// [0, 1]; affine_gradients, nonfinite, activation or dtype not an enumerator; device not there. GroupError
  /// process_group unknown.
  explicit SyncBatchNorm(std::int64_t num_features, const SyncBatchNormOptions& options = {});
  ~SyncBatchNorm();
  SyncBatchNorm(SyncBatchNorm&&) noexcept;  ///< A moved-from layer may only be assigned to or destroyed.
  SyncBatchNorm& operator=(SyncBatchNorm&&) noexcept;

  std::int64_t num_features() const;            ///< Number of channels C.
  const SyncBatchNormOptions& options() const;  ///< The options that the layer was made with.
  /// The given name, else "#k" for the k-th unnamed layer of its group; "" in a group of one.
  const std::string& name() const;

  bool training() const;             ///< True in training mode, and for a new layer.
  void set_train(bool mode = true);  ///< Training mode, or evaluation mode if `mode` is false.

  /// Normalizes x into y. Training uses the statistics of the group's batch, and moves running statistics and
  /// counter. Evaluation uses the running statistics, or the local batch's if there are none; nothing is sent
  /// and nothing moves. The layer keeps the Saved of this call for backward(tensors).
  /// @throws InvalidArgument (also if the group's batch has 1 element per channel in training),
  /// MismatchError, PeerError, TimeoutError, GroupError
  void forward(const ForwardTensors& tensors);
  /// Like forward(tensors), but fills the caller's `saved`: for several forwards before the first backward.
  void forward(const ForwardTensors& tensors, Saved& saved);
  /// Shorthand for forward({.x = x, .y = y}).
  void forward(const ConstTensorView& x, const TensorView& y) { forward({.x = x, .y = y}); }

  /// Computes the gradients with respect to x, the residual, weight and bias. The layer keeps the last two
  /// (weight_grad, bias_grad): each backward overwrites them. With dy' = dy, or zero where ReLU is closed:
  ///
  ///     dx = scale * (dy' - mean(dy') - (x - mean) / (var + eps) * mean(dy' * (x - mean))),
  ///     weight_grad = sum(dy' * (x - mean)) / sqrt(var + eps),
  ///     bias_grad = sum(dy'),   d_residual = dy',   scale = weight / sqrt(var + eps)
  ///
  /// After an evaluation with running statistics, dx = scale * dy'. After a training
  /// forward this call joins the group's sum, whether or not this rank wants dx.
  /// @throws InvalidArgument (no forward before; y missing under relu), MismatchError, PeerError,
  /// TimeoutError, GroupError
  void backward(const BackwardTensors& tensors);
  /// Like backward(tensors), for the forward that filled `saved`.
  void backward(const Saved& saved, const BackwardTensors& tensors);
  /// Shorthand for backward({.dy = dy, .x = x, .dx = dx}).
  void backward(const ConstTensorView& dy, const ConstTensorView& x, const TensorView& dx) {
    backward({.dy = dy, .x = x, .dx = dx});
  }

  /// The Saved of the last forward(tensors).
  const Saved& saved() const;

  /// Live views of the layer's values that exist, in this order: weight, bias, running_mean, running_var,
  /// num_batches_tracked. For checkpoints and optimizers.
  std::vector<StateEntry> state();
  std::vector<StateEntry> gradients();  ///< Live views of weight_grad and bias_grad, if they exist.
  /// Live view of one entry of state() or gradients(), by its name. The elements are on the layer's device.
  /// @throws InvalidArgument no such entry, or T is not its element type (int64 for num_batches_tracked)
  template <class T>
  std::span<T> values(const std::string& name);

  void reset_parameters();     ///< Sets weight to 1 and bias to 0, and calls reset_running_stats().
  void reset_running_stats();  ///< Sets running_mean to 0, running_var to 1, num_batches_tracked to 0.

 private:
  friend class FrameworkHooks;
  friend class JointCall;
  StateEntry find(const std::string& name, std::optional<DType> dtype);
  struct SYNCBN_LOCAL Impl;
  std::shared_ptr<Impl> impl_;  // shared with each JointCall that the layer is in
};

template <class T>
std::span<T> SyncBatchNorm::values(const std::string& name) {
  std::optional<DType> dtype;
  if constexpr (!std::is_same_v<T, std::int64_t>) dtype = dtype_of<T>;
  const StateEntry entry = find(name, dtype);
  return {static_cast<T*>(entry.data), entry.size};
}

}  // namespace syncbn
