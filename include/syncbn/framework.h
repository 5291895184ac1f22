// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "syncbn/export.h"
#include "syncbn/sync_batch_norm.h"

/// @file
/// For a framework that owns the parameters, separates differentiation from changes of state, or
/// differentiates twice. A program that uses SyncBatchNorm directly needs nothing of this header.
namespace syncbn {

/// Channel sums that one backward leaves for a double backward. Every vector has C elements, in double. dy'
/// is dy, and zero where ReLU is closed.
struct BackwardSums {
  Column a = {};      ///< Sum of dy' over the batch behind the statistics.
  Column b = {};      ///< Sum of dy' * (x - mean) over the same batch.
  Column own_a = {};  ///< Sum of dy' over this rank's share of the batch.
  Column own_b = {};  ///< Sum of dy' * (x - mean) over this rank's share.

  static constexpr Column BackwardSums::*kColumns[] = {&BackwardSums::a, &BackwardSums::b,
                                                       &BackwardSums::own_a, &BackwardSums::own_b};
};

/// Tensors of one double backward call. A double backward takes the gradients of some function of backward's
/// results and returns the gradients with respect to backward's inputs. Tensors have the shape, dtype and
/// layout of x. The pointers lead to C elements of the layer's dtype. No result may overlap another tensor.
struct DoubleBackwardTensors {
  ConstTensorView dy;                                         ///< The backward's dy.
  ConstTensorView x;                                          ///< The backward's x.
  std::optional<ConstTensorView> y = std::nullopt;            ///< The backward's y; needed under relu.
  std::optional<ConstTensorView> ddx = std::nullopt;          ///< Gradient with respect to dx; none: zero.
  std::optional<ConstTensorView> dd_residual = std::nullopt;  ///< With respect to d_residual; none: zero.
  std::optional<TensorView> d_dy = std::nullopt;  ///< Result: gradient with respect to dy, if wanted.
  std::optional<TensorView> d_x = std::nullopt;   ///< Result: gradient with respect to x, if wanted.
  const void* dd_weight = nullptr;                ///< Gradient with respect to weight_grad; null: zero.
  const void* dd_bias = nullptr;                  ///< Gradient with respect to bias_grad; null: zero.
  void* d_weight = nullptr;  ///< Result: this rank's gradient with respect to weight; may be dd_weight.
};

/// A new layer's number. The numbers rise in the order of construction. Every SyncBatchNorm takes one. A
/// framework whose layers share SyncBatchNorms takes one for each of its layers, copies and unpickled layers
/// included.
SYNCBN_API std::int64_t next_layer_number();

/// A call that the ranks of a layer's group make together.
enum class Direction : std::uint8_t { forward, backward, double_backward };

/// The call as messages name it: "forward of layer 'bn1'", or "backward of an unnamed layer" for an empty
/// name.
SYNCBN_API std::string describe_call(Direction direction, std::string_view layer_name);

/// The parts of a layer that a framework needs and a program does not. The object shares the layer's state,
/// so it stays valid when the layer is moved. The layer's rules hold here, too: one thread at a time,
/// collective calls in the same order on every rank.
class SYNCBN_API FrameworkHooks {
 public:
  explicit FrameworkHooks(SyncBatchNorm& layer);

  /// Sets the number of the framework's layer that makes the next calls. The order of the numbers
  /// distinguishes layers of the same name. No number is sent to a peer.
  void identify(std::int64_t number);
  /// Sets the words for "SyncBatchNormOptions::name" in messages: how a program of the framework names a
  /// layer. Comes before the first call.
  void set_naming(std::string naming);

  /// Uses the caller's memory for one value of the layer, until the next bind() of the same value. Nothing is
  /// copied: the value is what the memory holds. `entry` is a name of SyncBatchNorm::state(), or weight_grad
  /// or bias_grad. `memory` holds num_features elements of the layer's dtype (num_batches_tracked: one
  /// int64). Null returns to the layer's own memory, with the values it had. Earlier views of the value keep
  /// showing the earlier memory.
  /// @throws InvalidArgument the layer has no such entry, or `memory` is not aligned to its element size
  void bind(std::string_view entry, void* memory);

  /// Computes a forward without changing the layer: running statistics and counter stay. `normalize` and then
  /// `track` equal SyncBatchNorm::forward(tensors, saved). A framework that recomputes activations calls
  /// `normalize` alone the second time.
  /// @throws as SyncBatchNorm::forward
  void normalize(const ForwardTensors& tensors, Saved& saved);
  /// Moves running statistics and counter by the batch statistics in `saved`. Does nothing if `saved` comes
  /// from an evaluation. Local: nothing is sent.
  /// @throws InvalidArgument `saved` is of another number of channels
  void track(const Saved& saved);

  /// Computes what SyncBatchNorm::backward(saved, tensors) does, and fills `sums` for double_backward().
  /// @throws as SyncBatchNorm::backward
  void backward(const Saved& saved, const BackwardTensors& tensors, BackwardSums& sums);
  /// Differentiates a backward. Needs affine_gradients = local. Backward's results depend on the inputs of
  /// all ranks, so after a training forward this call joins the group's sum, whatever results this rank
  /// wants. Computed in double; src/kernels/double_backward.h has the formulas. The results have the same
  /// bits for every split of the batch if dd_weight is zero on every rank.
  /// @throws InvalidArgument, MismatchError, PeerError, TimeoutError, GroupError
  void double_backward(const Saved& saved, const BackwardSums& sums, const DoubleBackwardTensors& tensors);

  /// True if the backward of the forward that produced `saved` joins the group's sum. It does after a
  /// training forward, whatever the mode is now.
  bool is_collective(const Saved& saved) const;
  /// Reports that this rank cannot make the collective call that its peers expect next: a training forward,
  /// or a backward for which is_collective() is true. The peers get a PeerError with `reason` at once, and
  /// the group is broken. Does nothing in a group of one.
  void fail(Direction direction, const std::string& reason);

 private:
  std::shared_ptr<SyncBatchNorm::Impl> impl_;
};

}  // namespace syncbn
