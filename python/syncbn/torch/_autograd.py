# SPDX-License-Identifier: Apache-2.0

"""The layer in eager autograd."""

import torch
from torch.autograd.function import Function

from . import _core_calls
from .._framework_group import single_rank_group
from ._private import increment_versions
from ._process_group import framework_group
from ._recompute import moves_statistics
from ._spec import parameter_dtype, spec_of


class LayerSnapshot:
    """State of a layer at a call. The call's backward uses it, so that later changes of the layer do not matter."""

    __slots__ = ("core_layer", "number", "dtype", "activation", "weight", "bias", "training", "_values", "_tracked")

    def __init__(self, layer):
        parameters, buffers = layer._parameters, layer._buffers
        if "weight" in parameters and "bias" in parameters:
            weight, bias = parameters["weight"], parameters["bias"]
        else:  # parametrized
            weight, bias = layer.weight, layer.bias
        mean, var, counter = buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"]
        training, extra = layer.training, layer._extra
        if training and not layer.track_running_stats:
            mean = var = None
        if mean is None:
            counter = None
        dtype = parameter_dtype(weight, mean)
        group = framework_group(extra.process_group_name) if training else single_rank_group()
        self.core_layer = group.layer(spec_of(layer, weight, bias, mean, dtype, extra.name))
        self.number = extra.number
        self.dtype = dtype
        self.activation = extra.activation
        self.weight, self.bias = weight, bias
        self.training = training
        self._values = weight, bias, mean, var, counter
        self._tracked = ()
        if moves_statistics(extra.name_tensor, training and mean is not None):
            self._tracked = (mean, var) if counter is None else (mean, var, counter)

    def call(self, x, residual):
        """y and what the backward needs of the statistics. Also updates the running statistics."""
        tracked = self._tracked
        y_and_saved = _core_calls.normalize(self.core_layer, self.number, self.dtype, x=x, values=self._values,
                                            residual=residual, training=self.training, track=bool(tracked))
        if tracked:
            increment_versions(tracked)
        return y_and_saved


class Forward(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, residual, snapshot):
        y, saved = snapshot.call(x, residual)
        relu = snapshot.activation == "relu"
        # Only x and y go through save_for_backward, which takes 0.5 µs for each tensor. `saved` has the values of weight;
        # ctx.weight is the tensor that a double backward differentiates by.
        if relu:
            ctx.save_for_backward(x, y)
        else:
            ctx.save_for_backward(x)
        ctx.snapshot, ctx.weight, ctx.saved = snapshot, weight, saved
        ctx.masked_residual = relu and residual is not None
        return y

    @staticmethod
    def backward(ctx, dy):
        x, *y = ctx.saved_tensors
        y = y[0] if y else None
        snapshot, needs = ctx.snapshot, ctx.needs_input_grad
        wanted = needs[0], needs[1], needs[2], needs[3] and ctx.masked_residual
        if torch.is_grad_enabled():
            y = None if y is None else y.detach()  # y is a mask here: its own gradient is zero
            dx, d_weight, d_bias, d_residual = Backward.apply(dy, x, ctx.weight, y, ctx.saved, snapshot, wanted)
        else:
            dx, d_weight, d_bias, d_residual, _ = _core_calls.backward(
                snapshot.core_layer, snapshot.number, snapshot.dtype, saved=ctx.saved, dy=dy, x=x, y=y, wanted=wanted,
                with_sums=False)
        if needs[3] and not ctx.masked_residual:
            d_residual = dy
        return dx, d_weight, d_bias, d_residual, None


class Backward(Function):
    """The backward of Forward, if it is differentiated in turn."""

    @staticmethod
    def forward(ctx, dy, x, weight, y, saved, snapshot, wanted):
        *gradients, sums = _core_calls.backward(
            snapshot.core_layer, snapshot.number, snapshot.dtype, saved=saved, dy=dy, x=x, y=y, wanted=wanted, with_sums=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, x, weight, y, saved, sums)
        ctx.snapshot = snapshot
        return tuple(gradients)

    @staticmethod
    def backward(ctx, ddx, dd_weight, dd_bias, dd_residual):
        dy, x, weight, y, saved, sums = ctx.saved_tensors
        gradients = DoubleBackward.apply(ddx, dd_weight, dd_bias, dd_residual, dy, x, weight, y, saved, sums,
                                         ctx.snapshot, ctx.needs_input_grad[:3])
        return *gradients, None, None, None, None


class DoubleBackward(Function):
    """The backward of Backward. Every tensor that it depends on is an input.

    With fewer inputs, a third derivative would lack terms without an error, as with torch's once_differentiable.
    """

    @staticmethod
    def forward(ctx, ddx, dd_weight, dd_bias, dd_residual, dy, x, weight, y, saved, sums, snapshot, wanted):
        return _core_calls.double_backward(
            snapshot.core_layer, snapshot.number, snapshot.dtype, saved=saved, sums=sums, dy=dy, x=x, y=y, ddx=ddx,
            dd_weight=dd_weight, dd_bias=dd_bias, dd_residual=dd_residual, wanted=wanted)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("SyncBatchNorm has no third derivative")
