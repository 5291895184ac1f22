"""The layer as operators of torch.library, for everything that traces: compile, export, tensor subclasses, modes.

torch refuses autograd for an operator that changes its arguments, so forward is functional and `track` changes.
"""

import functools
from typing import Optional, Tuple  # torch 2.4 reads no newer forms from a signature

import torch
from torch import Tensor

from . import _calls
from .._framework import alone, core_layer
from ._group import core_group
from ._recompute import recomputing

# The core's saved_size, of channels that may be symbolic.
_SAVED_HEAD, _SAVED_COLUMNS = 2, 5
_DTYPE_NAMES = {dtype: str(dtype).partition(".")[2] for dtype in _calls.DTYPES}


def settings_of(layer):
    """Everything about a layer that is no tensor, in one string: an operator knows its arguments only. Without
    num_features, an int, which tracing for changing shapes may take for one of them."""
    weight, mean, own = layer.weight, layer.running_mean, layer._own
    track = mean is not None and (layer.track_running_stats or not layer.training)
    dtype = torch.float32 if weight is None and not track else (mean if weight is None else weight).dtype
    return (f"{layer.eps}|{_calls.momentum_of(layer)}|{weight is not None}|{layer.bias is not None}|{track}|"
            f"{_DTYPE_NAMES[dtype]}|{own.activation or 'none'}|{own.nonfinite}|{own.group}|{own.name}")


@functools.lru_cache(maxsize=1024)
def _parsed(settings):
    eps, momentum, affine, bias, track, dtype, activation, nonfinite, group, name = settings.split("|", 9)
    key = (float(eps), None if momentum == "None" else float(momentum), affine == "True", bias == "True",
           track == "True", getattr(torch, dtype), activation, nonfinite, name)
    return group, key


def _core(settings, training, num_features):
    """The core's layer, and the dtype of its parameters."""
    group, key = _parsed(settings)
    return core_layer(core_group(group) if training else alone(), num_features, *key), _dtype_of(settings)


def _dtype_of(settings):
    return _parsed(settings)[1][5]


def _is_relu(settings):
    return _parsed(settings)[1][6] == "relu"


def _dense_like(x):
    return torch.empty_like(_calls.dense(x)[0])


def _nothing(x):
    return x.new_empty(0)


def _or_nothing(tensor, x):
    return _nothing(x) if tensor is None else tensor


@torch.library.custom_op("syncbn::forward", mutates_args=(), device_types="cpu")
def forward(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], residual: Optional[Tensor],
            running_mean: Optional[Tensor], running_var: Optional[Tensor], settings: str,
            training: bool) -> Tuple[Tensor, Tensor]:
    if residual is not None:
        _calls.check_residual(residual, x)
    core, dtype = _core(settings, training, x.shape[1])
    values = _calls.addresses(weight, bias, running_mean, running_var, None, dtype, x.shape[1])
    return _calls.forward(core, x, values, residual, training, False)


@forward.register_fake
def _(x, weight, bias, residual, running_mean, running_var, settings, training):
    return _dense_like(x), x.new_empty(_SAVED_HEAD + _SAVED_COLUMNS * x.shape[1], dtype=torch.float64)


@torch.library.custom_op("syncbn::track", mutates_args=("running_mean", "running_var", "num_batches_tracked"),
                         device_types="cpu")
def track(running_mean: Tensor, running_var: Tensor, num_batches_tracked: Optional[Tensor], saved: Tensor,
          settings: str) -> None:
    if recomputing():
        return
    channels = (saved.numel() - _SAVED_HEAD) // _SAVED_COLUMNS
    core, dtype = _core(settings, True, channels)
    values = _calls.addresses(None, None, running_mean, running_var, num_batches_tracked, dtype, channels)
    core.track(saved.data_ptr(), values)


@track.register_fake
def _(running_mean, running_var, num_batches_tracked, saved, settings):
    pass


@torch.library.custom_op("syncbn::backward", mutates_args=(), device_types="cpu")
def backward(dy: Tensor, x: Tensor, weight: Optional[Tensor], y: Optional[Tensor], saved: Tensor, settings: str,
             training: bool, has_bias: bool, masked_residual: bool) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    core, dtype = _core(settings, training, x.shape[1])
    wants = True, weight is not None, has_bias, masked_residual
    *gradients, sums = _calls.backward(core, dtype, saved, dy, x, y, wants, True)
    return (*(_or_nothing(gradient, x) for gradient in gradients), sums)


@backward.register_fake
def _(dy, x, weight, y, saved, settings, training, has_bias, masked_residual):
    channels = (lambda: x.new_empty(x.shape[1], dtype=_dtype_of(settings)))
    return (_dense_like(x), channels() if weight is not None else _nothing(x), channels() if has_bias else _nothing(x),
            _dense_like(x) if masked_residual else _nothing(x), x.new_empty(4 * x.shape[1], dtype=torch.float64))


@torch.library.custom_op("syncbn::double_backward", mutates_args=(), device_types="cpu")
def double_backward(ddx: Optional[Tensor], dd_weight: Optional[Tensor], dd_bias: Optional[Tensor],
                    dd_residual: Optional[Tensor], dy: Tensor, x: Tensor, weight: Optional[Tensor], y: Optional[Tensor],
                    saved: Tensor, sums: Tensor, settings: str, training: bool) -> Tuple[Tensor, Tensor, Tensor]:
    core, dtype = _core(settings, training, x.shape[1])
    gradients = _calls.double_backward(core, dtype, saved, sums, dy, x, y, ddx, dd_weight, dd_bias, dd_residual,
                                       (True, True, weight is not None))
    return tuple(_or_nothing(gradient, x) for gradient in gradients)


@double_backward.register_fake
def _(ddx, dd_weight, dd_bias, dd_residual, dy, x, weight, y, saved, sums, settings, training):
    return _dense_like(x), _dense_like(x), _nothing(x) if weight is None else torch.empty_like(weight)


def _keep_for_backward(ctx, inputs, output):
    x, weight, bias, residual, _, _, ctx.settings, ctx.training = inputs
    y, saved = output
    relu = _is_relu(ctx.settings)
    ctx.save_for_backward(x, weight, y if relu else None, saved)
    ctx.mark_non_differentiable(saved)
    ctx.has_bias = bias is not None
    ctx.has_residual = residual is not None
    ctx.masked_residual = relu and ctx.has_residual


def _backward(ctx, dy, _):
    x, weight, y, saved = ctx.saved_tensors
    y = None if y is None else y.detach()
    dx, d_weight, d_bias, d_residual, _ = torch.ops.syncbn.backward(
        dy, x, weight, y, saved, ctx.settings, ctx.training, ctx.has_bias, ctx.masked_residual)
    if not ctx.masked_residual:
        d_residual = dy
    return (dx, d_weight if weight is not None else None, d_bias if ctx.has_bias else None,
            d_residual if ctx.has_residual else None, None, None, None, None)


def _keep_for_double_backward(ctx, inputs, output):
    dy, x, weight, y, saved, ctx.settings, ctx.training, ctx.has_bias, ctx.masked_residual = inputs
    ctx.save_for_backward(dy, x, weight, y, saved, output[4])
    ctx.mark_non_differentiable(output[4])


def _double_backward(ctx, ddx, dd_weight, dd_bias, dd_residual, _):
    dy, x, weight, y, saved, sums = ctx.saved_tensors
    d_dy, d_x, d_weight = torch.ops.syncbn.double_backward(
        ddx, dd_weight if weight is not None else None, dd_bias if ctx.has_bias else None,
        dd_residual if ctx.masked_residual else None, dy, x, weight, y, saved, sums, ctx.settings, ctx.training)
    return d_dy, d_x, d_weight if weight is not None else None, None, None, None, None, None, None


forward.register_autograd(_backward, setup_context=_keep_for_backward)
backward.register_autograd(_double_backward, setup_context=_keep_for_double_backward)
