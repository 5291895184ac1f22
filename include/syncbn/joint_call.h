// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "syncbn/export.h"
#include "syncbn/sync_batch_norm.h"

namespace syncbn {

/// Joins the training calls of one or several layers of one group into one message. start() sends the sums
/// and finish() waits for the group's, so the program can work while the message travels. Results and errors
/// are those of the layers' own forward and backward, bit for bit.
///
///     JointCall call;
///     call.forward(left, {.x = x1, .y = y1}, saved1);  // checks and sums this rank's part
///     call.forward(right, {.x = x2, .y = y2}, saved2);
///     call.start();
///     ...                                              // must not touch x1, y1, x2, y2
///     call.finish();                                   // y1, y2 are ready, running statistics have moved
///
/// A JointCall is one collective call: every rank adds the same layers' calls in the same order, or every
/// rank gets a MismatchError. A JointCall with a single call is the layer's own call, and ranks may mix the
/// two. Other calls on the group may come before finish(); all ranks start their calls in the same order.
///
/// Tensors and Saved stay in place until finish(). No call may write what another one uses. Layers may be
/// moved meanwhile; a layer that is destroyed lives on until finish().
///
/// A JointCall is used by one thread at a time.
class SYNCBN_API JointCall {
 public:
  JointCall();
  /// Gives up a call that was started and not finished, without waiting. The group is then broken, and peers
  /// that still wait for their sum get a PeerError. Calls that were not started have no effect.
  ~JointCall();
  JointCall(JointCall&&) noexcept;  ///< A moved-from JointCall may only be assigned to or destroyed.
  JointCall& operator=(JointCall&&) noexcept;

  /// Adds layer.forward(tensors, saved). If nothing has to be sent (in evaluation, or in a group of one), the
  /// call is made at once. If an added call throws, this object is empty afterwards, and the peers get a
  /// PeerError.
  /// @throws InvalidArgument (as the layer's call; a layer of another group; memory of a call added before;
  /// after start()), GroupError
  void forward(SyncBatchNorm& layer, const ForwardTensors& tensors, Saved& saved);
  /// Adds layer.backward(saved, tensors), by the same rules.
  void backward(SyncBatchNorm& layer, const Saved& saved, const BackwardTensors& tensors);

  /// Sends the message. The group connects if this is its first call. Does nothing without added calls.
  /// @throws PeerError, TimeoutError, GroupError
  void start();
  /// Waits for the sums and completes all calls; starts them first if start() was not called. The object is
  /// empty afterwards and may be filled again. After a throw no layer has changed.
  /// @throws as the layers' calls
  void finish();

 private:
  struct SYNCBN_LOCAL Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
