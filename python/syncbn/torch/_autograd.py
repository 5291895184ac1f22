"""The layer in eager autograd."""

import torch
from torch.autograd.function import Function

from . import _core_calls
from .._framework_group import alone
from ._process_group import core_group
from ._recompute import recomputing

_increment_versions = torch.autograd.graph.increment_version
if torch.__version__.startswith(("2.4.", "2.5.")):  # of one tensor
    def _increment_versions(tensors):
        for tensor in tensors:
            if not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)


class Call:
    """What a layer is when it is called; its backward must not see what has changed since."""

    __slots__ = ("core", "dtype", "activation", "weight", "bias", "training", "_values", "_tracked")

    def __init__(self, layer):
        parameters, buffers = layer._parameters, layer._buffers
        if "weight" in parameters and "bias" in parameters:
            weight, bias = parameters["weight"], parameters["bias"]
        else:  # parametrized
            weight, bias = layer.weight, layer.bias
        mean, var, counter = buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"]
        training, own = layer.training, layer._own
        if training and not layer.track_running_stats:
            mean = var = None
        if mean is None:
            counter = None
        dtype = torch.float32 if weight is None and mean is None else (mean if weight is None else weight).dtype
        group = core_group(own.group) if training else alone()
        self.core = group.layer(
            layer.eps, _core_calls.momentum_of(layer), layer.num_features, weight is not None, bias is not None,
            mean is not None, dtype, own.activation or "none", own.nonfinite, own.name)
        self.dtype = dtype
        self.activation = own.activation
        self.weight, self.bias = weight, bias
        self.training = training
        self._values = weight, bias, mean, var, counter
        self._tracked = ()
        if training and mean is not None and not recomputing():
            self._tracked = (mean, var) if counter is None else (mean, var, counter)

    def __call__(self, x, residual):
        tracked = self._tracked
        y_and_saved = _core_calls.forward(self.core, self.dtype, x, self._values, residual, self.training, bool(tracked))
        if tracked:
            _increment_versions(tracked)
        return y_and_saved


class Forward(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, residual, call):
        y, saved = call(x, residual)
        relu = call.activation == "relu"
        # What is no input is kept beside: each tensor that autograd keeps costs half a microsecond. weight's values are
        # in `saved`; it is here as what a double backward has a gradient of.
        if relu:
            ctx.save_for_backward(x, y)
        else:
            ctx.save_for_backward(x)
        ctx.call, ctx.weight, ctx.statistics = call, weight, saved
        ctx.masked_residual = relu and residual is not None
        return y

    @staticmethod
    def backward(ctx, dy):
        x, *y = ctx.saved_tensors
        y = y[0] if y else None
        call, needs = ctx.call, ctx.needs_input_grad
        wants = needs[0], needs[1], needs[2], needs[3] and ctx.masked_residual
        if torch.is_grad_enabled():
            y = None if y is None else y.detach()  # a mask; its own gradient is zero
            dx, d_weight, d_bias, d_residual = Backward.apply(dy, x, ctx.weight, y, ctx.statistics, call, wants)
        else:
            dx, d_weight, d_bias, d_residual, _ = _core_calls.backward(call.core, call.dtype, ctx.statistics, dy, x, y, wants,
                                                                  False)
        if needs[3] and not ctx.masked_residual:
            d_residual = dy
        return dx, d_weight, d_bias, d_residual, None


class Backward(Function):
    """Forward's backward where it is differentiated itself."""

    @staticmethod
    def forward(ctx, dy, x, weight, y, saved, call, wants):
        *gradients, sums = _core_calls.backward(call.core, call.dtype, saved, dy, x, y, wants, True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, x, weight, y, saved, sums)
        ctx.call = call
        return tuple(gradients)

    @staticmethod
    def backward(ctx, ddx, dd_weight, dd_bias, dd_residual):
        dy, x, weight, y, saved, sums = ctx.saved_tensors
        gradients = DoubleBackward.apply(ddx, dd_weight, dd_bias, dd_residual, dy, x, weight, y, saved, sums, ctx.call,
                                         ctx.needs_input_grad[:3])
        return *gradients, None, None, None, None


class DoubleBackward(Function):
    """Backward's backward. Its inputs are all it depends on: with fewer, a third derivative would lack terms in
    silence, as it does with torch's once_differentiable."""

    @staticmethod
    def forward(ctx, ddx, dd_weight, dd_bias, dd_residual, dy, x, weight, y, saved, sums, call, wants):
        return _core_calls.double_backward(call.core, call.dtype, saved, sums, dy, x, y, ddx, dd_weight, dd_bias,
                                      dd_residual, wants)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("SyncBatchNorm has no third derivative")
