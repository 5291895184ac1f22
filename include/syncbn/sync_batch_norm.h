#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "syncbn/dtype.h"
#include "syncbn/tensor.h"

namespace syncbn {

class Group;
class JointCall;

/// Whose sums the gradients of weight and bias are.
enum class AffineGradients : std::uint8_t {
  local,  ///< This rank's own; a data-parallel program adds them over the ranks itself.
  group,  ///< The group's, the same on every rank.
};

/// What a training forward does with channels whose statistics are not finite.
enum class Nonfinite : std::uint8_t {
  propagate,    ///< The running statistics take them.
  skip_update,  ///< The running statistics of those channels stay; other channels and the counter move on.
  error,        ///< InvalidArgument on every rank, before any state changes.
};

/// Function applied to the normalized (and residual-added) value.
enum class Activation : std::uint8_t {
  none,
  relu,  ///< max(y, 0); NaN stays NaN.
};

/// Which ranks share statistics: none, the world; a name given to create_group; or a group of make_group.
using ProcessGroup = std::variant<std::monostate, std::string, std::shared_ptr<Group>>;

struct SyncBatchNormOptions {
  /// Added to the biased variance, before the root; finite, >= 0.
  double eps = 1e-5;
  /// Weight of the new statistics, in [0, 1]; none: 1 / num_batches_tracked.
  std::optional<double> momentum = 0.1;
  /// Whether weight and bias exist.
  bool affine = true;
  /// Whether the affine layer has a bias; false: a weight alone.
  bool bias = true;
  /// Whether running statistics exist; without them evaluation uses the batch.
  bool track_running_stats = true;
  ProcessGroup process_group = {};
  /// Of weight, bias, running_mean, running_var; input may differ.
  DType dtype = DType::float32;
  AffineGradients affine_gradients = AffineGradients::local;
  Nonfinite nonfinite = Nonfinite::propagate;
  Activation activation = Activation::none;
  /// Names the layer in messages and tells it from the group's others; empty: numbered in order.
  std::string name = {};
};

/// What one forward leaves for its backward: values per channel only. x, and y under relu, are given again.
struct Saved {
  enum class Statistics : std::uint8_t {
    none,         ///< No forward has been made.
    group_batch,  ///< Training: of the group's batch; backward joins the group's sum.
    local_batch,  ///< Evaluation without running statistics: of this rank's batch; nothing is sent.
    running,      ///< Evaluation: the running ones; nothing is sent.
  };
  Statistics statistics = Statistics::none;
  std::int64_t count = 0;            ///< Elements per channel behind the statistics.
  std::vector<double> mean;          ///< (C,)
  std::vector<double> var;           ///< (C,) biased
  std::vector<double> invstd;        ///< (C,) 1 / sqrt(var + eps)
  std::vector<double> scale;         ///< (C,) weight * invstd
  std::vector<double> var_unbiased;  ///< (C,) Training only.
};

/// What one backward leaves for a double backward, (C,) each: the sums behind its gradients.
struct BackwardSums {
  std::vector<double> a, b;  ///< Σdy' and Σdy'·(x − mean) over the batch that the statistics are of.
  std::vector<double> own_a, own_b;  ///< The same over this rank's share.
};

/// A parameter or buffer of a layer: `size` elements of `dtype`, writable, alive as long as the layer (or its
/// bound memory).
struct StateEntry {
  std::string name;  ///< weight, bias, running_mean, running_var, num_batches_tracked
  void* data;
  std::optional<DType> dtype;  ///< none: int64
  std::size_t size;
};

/// Tensors of one forward call. In place (y = x) is not allowed: backward needs x.
struct ForwardTensors {
  ConstTensorView x;                        ///< (N, C, spatial...), N may be 0.
  TensorView y;                             ///< Shape, dtype and layout of x; overlaps no input.
  std::optional<ConstTensorView> residual;  ///< Added before the activation; shape, dtype and layout of x.
};

/// Tensors of one backward call; all have the shape, dtype and layout of x.
struct BackwardTensors {
  ConstTensorView dy;                    ///< Gradient of y.
  ConstTensorView x;                     ///< What forward was given.
  std::optional<ConstTensorView> y;      ///< What forward wrote; needed under relu.
  std::optional<TensorView> dx;          ///< Gradient of x, if wanted; may be dy.
  std::optional<TensorView> d_residual;  ///< Gradient of the residual, if wanted.
};

/// Tensors of one double backward call: the gradient of a function of backward's results. All but the last
/// three have x's shape, dtype and layout; those (C,) elements of the layer's dtype. Results overlap nothing.
struct DoubleBackwardTensors {
  ConstTensorView dy;  ///< What backward was given: dy, x and, under relu, y.
  ConstTensorView x;
  std::optional<ConstTensorView> y;
  std::optional<ConstTensorView> ddx;          ///< Gradient with respect to dx; none: zero.
  std::optional<ConstTensorView> dd_residual;  ///< With respect to d_residual; none: zero.
  std::optional<TensorView> d_dy;              ///< Result with respect to dy, if wanted.
  std::optional<TensorView> d_x;               ///< With respect to x, if wanted.
  const void* dd_weight = nullptr;             ///< Gradient with respect to weight_grad; null: zero.
  const void* dd_bias = nullptr;               ///< With respect to bias_grad; null: zero.
  void* d_weight = nullptr;                    ///< With respect to weight, this rank's own; may be dd_weight.
};

/// Batch normalization with the statistics of a whole group of ranks.
///
///     y = (x - mean) / sqrt(var + eps) * weight + bias,   per channel
///
/// (Ioffe and Szegedy 2015, algorithm 1), mean and biased variance over all N·H·W… elements that the ranks of
/// the group bring, uneven and empty shares included. Statistics, y, dx and running statistics have the same
/// bits for every number of ranks, split, thread count, layout and instruction set; docs/design.md gives each
/// rounding.
///
/// A layer is used by one thread at a time. Calls in training are collective: every rank of the group makes
/// them, in the same order; a difference is a MismatchError on every rank. A failed call changes nothing in
/// the layer.
class SyncBatchNorm {
 public:
  /// @throws InvalidArgument num_features < 1; eps negative or not finite; momentum outside [0, 1];
  /// affine_gradients, nonfinite, activation or dtype not an enumerator. GroupError: process_group unknown.
  explicit SyncBatchNorm(std::int64_t num_features, const SyncBatchNormOptions& options = {});
  ~SyncBatchNorm();
  SyncBatchNorm(SyncBatchNorm&&) noexcept;  ///< What was moved from may only be assigned to or destroyed.
  SyncBatchNorm& operator=(SyncBatchNorm&&) noexcept;

  std::int64_t num_features() const;
  const SyncBatchNormOptions& options() const;
  /// The given name, else "#k": the k-th unnamed layer of its group; "" in a group of one.
  const std::string& name() const;

  bool training() const;  ///< True for a new layer.
  void train(bool mode = true);
  void set_train(bool mode = true) { train(mode); }
  void eval() { train(false); }

  /// Normalizes. Training: statistics of the group's batch, running statistics and counter move on.
  /// Evaluation: running statistics, or the local batch's where there are none; nothing is sent and nothing
  /// moves.
  /// @throws InvalidArgument (total count 1 in training included), MismatchError, PeerError, TimeoutError,
  /// GroupError
  void forward(const ForwardTensors& tensors);                // keeps its Saved in the layer
  void forward(const ForwardTensors& tensors, Saved& saved);  // keeps nothing
  void forward(const ConstTensorView& x, const TensorView& y) { forward({x, y, std::nullopt}); }

  /// Gradients with respect to x, the residual, weight and bias; the last two are kept in the layer
  /// (weight_grad, bias_grad), overwritten by every backward. After a training forward it joins the group's
  /// sum, whether or not this rank wants dx.
  /// @throws InvalidArgument (no forward before; y missing under relu), MismatchError, PeerError,
  /// TimeoutError, GroupError
  void backward(const BackwardTensors& tensors);
  void backward(const Saved& saved, const BackwardTensors& tensors);
  void backward(const ConstTensorView& dy, const ConstTensorView& x, const TensorView& dx) {
    backward({dy, x, std::nullopt, dx, std::nullopt});
  }

  /// The two steps of forward(tensors, saved), for a framework that separates what it differentiates from
  /// what changes state, or that calls forward again only to have its results a second time: `normalize`
  /// leaves running statistics and counter alone; `track` moves them by what a training `normalize` has left,
  /// and does nothing after any other.
  void normalize(const ForwardTensors& tensors, Saved& saved);
  void track(const Saved& saved);

  /// As backward(saved, tensors); `sums` take what double_backward needs.
  void backward(const Saved& saved, const BackwardTensors& tensors, BackwardSums& sums);
  /// Gradients of a function of backward's results, with affine_gradients = local: given the function's
  /// gradients with respect to dx, d_residual, weight_grad and bias_grad on each rank, those with respect to
  /// dy, x and weight. Through dx, weight_grad and bias_grad it depends on the inputs of all ranks, so after
  /// a training forward it joins the group's sum, whatever this rank wants. Computed in double; the same bits
  /// for every split of the batch where dd_weight is zero, which belongs to a rank.
  /// @throws InvalidArgument, MismatchError, PeerError, TimeoutError, GroupError
  void double_backward(const Saved& saved, const BackwardSums& sums, const DoubleBackwardTensors& tensors);

  /// For a rank whose program can't make the training call that its peers expect next: they get a PeerError
  /// with `reason` instead of waiting, and the group is broken. In evaluation, or alone, nothing happens.
  void fail(const std::string& reason);
  /// The same for the backward of a forward, which decides whether peers wait for it; the mode may be another
  /// by now.
  void fail(const Saved& saved, const std::string& reason);

  /// The last forward that kept its Saved here.
  const Saved& saved() const;

  /// weight, bias, running_mean, running_var, num_batches_tracked: those that exist, in this order, as live
  /// views.
  std::vector<StateEntry> state();
  std::vector<StateEntry> gradients();  ///< weight_grad, bias_grad: those that exist, as live views.
  /// Live view of one entry of state(), or of weight_grad or bias_grad. @throws InvalidArgument absent, or T
  /// is not the layer's dtype (int64 for num_batches_tracked).
  template <class T>
  std::span<T> values(const std::string& name);

  /// Lets the layer keep one of its values in the caller's memory, from now on until the next bind of it:
  /// `entry` is a name of state(), or weight_grad or bias_grad; `memory` holds num_features elements of the
  /// layer's dtype (one int64 for num_batches_tracked) and lives as long as it is bound. Nothing is copied:
  /// the values are those that the memory has. Null: the layer's own memory, as it was left. For values that
  /// a framework owns. Views taken before stay where they were.
  /// @throws InvalidArgument the layer has no such entry, or memory not aligned to its element size.
  void bind(std::string_view entry, void* memory);

  void reset_parameters();     ///< weight 1, bias 0, and reset_running_stats.
  void reset_running_stats();  ///< running_mean 0, running_var 1, num_batches_tracked 0.

 private:
  friend class JointCall;
  StateEntry find(const std::string& name, std::optional<DType> dtype);
  struct Impl;
  std::shared_ptr<Impl> impl_;  // with each JointCall that it is in
};

template <class T>
std::span<T> SyncBatchNorm::values(const std::string& name) {
  std::optional<DType> dtype;
  if constexpr (!std::is_same_v<T, std::int64_t>) dtype = dtype_of<T>;
  const StateEntry entry = find(name, dtype);
  return {static_cast<T*>(entry.data), entry.size};
}

}  // namespace syncbn
