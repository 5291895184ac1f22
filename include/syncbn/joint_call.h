#pragma once

#include <memory>

#include "syncbn/sync_batch_norm.h"

namespace syncbn {

/// Training calls of one or several layers of one group, with one message for all of them, in two halves:
/// start() sends the sums, finish() waits for the group's, and what the program does in between overlaps with
/// the message. Results and errors are those of the layers' own forward and backward, bit for bit.
///
///     JointCall call;
///     call.forward(left, {x1, y1}, saved1);   // checks and sums this rank's part
///     call.forward(right, {x2, y2}, saved2);
///     call.start();
///     …                                        // neither x nor y may be touched
///     call.finish();                           // y1 and y2 are there, the running statistics have moved
///
/// A JointCall is one collective call: on every rank the same layers' calls in the same order, else a
/// MismatchError on every rank. One of a single call is the layer's own call, and ranks may mix the two.
/// Other calls may be made on the group before finish(); all ranks start theirs in the same order. Tensors
/// and Saved stay in place until finish(), and no call writes what another one uses. Layers may be moved; one
/// that is destroyed is kept until then. Used by one thread at a time. What was moved from may only be
/// assigned to or destroyed.
class JointCall {
 public:
  JointCall();
  /// What was started and not finished is given up, without waiting: the group is broken, and peers that have
  /// not got their sum yet get a PeerError. What was not started was never called.
  ~JointCall();
  JointCall(JointCall&&) noexcept;
  JointCall& operator=(JointCall&&) noexcept;

  /// Adds layer.forward(tensors, saved) or layer.backward(saved, tensors). Where nothing has to be sent (in
  /// evaluation, or in a group of one) it is made at once. A throw of a call that others are made with
  /// empties this object; peers then get a PeerError.
  /// @throws InvalidArgument (as the layer's call; a layer of another group; memory of a call added before;
  /// start() before), GroupError
  void forward(SyncBatchNorm& layer, const ForwardTensors& tensors, Saved& saved);
  void backward(SyncBatchNorm& layer, const Saved& saved, const BackwardTensors& tensors);

  /// Sends; connects where this is the group's first call. Without calls nothing happens.
  /// @throws PeerError, TimeoutError, GroupError
  void start();
  /// Waits and does the rest of all calls; then this object is empty and may be filled again. Starts where
  /// start() was not called. After a throw no layer has changed.
  /// @throws as the layers' calls
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
