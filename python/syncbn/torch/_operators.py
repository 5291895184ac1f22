"""The layer as operators of torch.library, for everything that traces: compile, export, tensor subclasses, modes.

torch refuses autograd for an operator that changes its arguments, so forward is functional and `track` changes.
"""

import functools
from typing import Optional, Tuple  # torch 2.4 reads no newer forms from a signature

import torch
from torch import Tensor

from . import _core_calls
from .._framework_group import alone, reason_of, tell_peers
from ._process_group import core_group
from ._recompute import recomputing

# The core's saved_size, of channels that may be symbolic.
_SAVED_HEAD, _SAVED_COLUMNS = 2, 5
_DTYPE_NAMES = {dtype: str(dtype).partition(".")[2] for dtype in _core_calls.DTYPES}


def settings_of(layer):
    """Everything about a layer that is no tensor, in one string: an operator knows its arguments only. Without
    num_features, an int, which tracing for changing shapes may take for one of them, and without the name, which is a
    tensor: compiled code takes a str for a constant, and would be compiled anew for every layer."""
    weight, mean, own = layer.weight, layer.running_mean, layer._own
    track = mean is not None and (layer.track_running_stats or not layer.training)
    dtype = torch.float32 if weight is None and not track else (mean if weight is None else weight).dtype
    return (f"{layer.eps}|{_core_calls.momentum_of(layer)}|{weight is not None}|{layer.bias is not None}|{track}|"
            f"{_DTYPE_NAMES[dtype]}|{own.activation or 'none'}|{own.nonfinite}|{own.group}")


def name_tensor(name):
    """Of a size that most names have in common: one that differs is compiled anew, too."""
    text = name.encode()
    return torch.tensor(list(text.ljust(max(1, -(-len(text) // 64)) * 64, b"\0")), dtype=torch.uint8, device="cpu")


@functools.lru_cache(maxsize=1024)
def _parsed(settings):
    eps, momentum, affine, bias, track, dtype, activation, nonfinite, group = settings.split("|", 8)
    rates = float(eps), None if momentum == "None" else float(momentum)
    return group, rates, (affine == "True", bias == "True", track == "True", getattr(torch, dtype), activation, nonfinite)


def _core(settings, name, training, num_features):
    """The core's layer, and the dtype of its parameters."""
    group, rates, kind = _parsed(settings)
    name = name.numpy().tobytes().rstrip(b"\0").decode()
    try:
        return (core_group(group) if training else alone()).layer(*rates, num_features, *kind, name), kind[3]
    except Exception as error:
        if training:
            tell_peers(core_group, group, name, reason_of(error))
        raise


def _dtype_of(settings):
    return _parsed(settings)[2][3]


def _is_relu(settings):
    return _parsed(settings)[2][4] == "relu"


def _dense_like(x):
    return torch.empty_like(_core_calls.dense(x)[0])


def _nothing(x):
    return x.new_empty(0)


def _or_nothing(tensor, x):
    return _nothing(x) if tensor is None else tensor


@torch.library.custom_op("syncbn::forward", mutates_args=(), device_types="cpu")
def forward(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], residual: Optional[Tensor],
            running_mean: Optional[Tensor], running_var: Optional[Tensor], name: Tensor, settings: str,
            training: bool) -> Tuple[Tensor, Tensor]:
    core, dtype = _core(settings, name, training, x.shape[1])
    return _core_calls.forward(core, dtype, x, (weight, bias, running_mean, running_var, None), residual, training, False)


@forward.register_fake
def _(x, weight, bias, residual, running_mean, running_var, name, settings, training):
    return _dense_like(x), x.new_empty(_SAVED_HEAD + _SAVED_COLUMNS * x.shape[1], dtype=torch.float64)


@torch.library.custom_op("syncbn::track", mutates_args=("running_mean", "running_var", "num_batches_tracked"),
                         device_types="cpu")
def track(running_mean: Tensor, running_var: Tensor, num_batches_tracked: Optional[Tensor], saved: Tensor,
          name: Tensor, settings: str) -> None:
    if recomputing():
        return
    core, dtype = _core(settings, name, True, (saved.numel() - _SAVED_HEAD) // _SAVED_COLUMNS)
    _core_calls.track(core, dtype, running_mean, running_var, num_batches_tracked, saved)


@track.register_fake
def _(running_mean, running_var, num_batches_tracked, saved, name, settings):
    pass


@torch.library.custom_op("syncbn::backward", mutates_args=(), device_types="cpu")
def backward(dy: Tensor, x: Tensor, weight: Optional[Tensor], y: Optional[Tensor], saved: Tensor, name: Tensor,
             settings: str, training: bool, has_bias: bool,
             masked_residual: bool) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    core, dtype = _core(settings, name, training, x.shape[1])
    wants = True, weight is not None, has_bias, masked_residual
    dx, d_weight, d_bias, d_residual, sums = _core_calls.backward(core, dtype, saved, dy, x, y, wants, True)
    return dx, _or_nothing(d_weight, x), _or_nothing(d_bias, x), _or_nothing(d_residual, x), sums


@backward.register_fake
def _(dy, x, weight, y, saved, name, settings, training, has_bias, masked_residual):
    channels = (lambda: x.new_empty(x.shape[1], dtype=_dtype_of(settings)))
    return (_dense_like(x), channels() if weight is not None else _nothing(x), channels() if has_bias else _nothing(x),
            _dense_like(x) if masked_residual else _nothing(x), x.new_empty(4 * x.shape[1], dtype=torch.float64))


@torch.library.custom_op("syncbn::double_backward", mutates_args=(), device_types="cpu")
def double_backward(ddx: Optional[Tensor], dd_weight: Optional[Tensor], dd_bias: Optional[Tensor],
                    dd_residual: Optional[Tensor], dy: Tensor, x: Tensor, weight: Optional[Tensor], y: Optional[Tensor],
                    saved: Tensor, sums: Tensor, name: Tensor, settings: str,
                    training: bool) -> Tuple[Tensor, Tensor, Tensor]:
    core, dtype = _core(settings, name, training, x.shape[1])
    d_dy, d_x, d_weight = _core_calls.double_backward(core, dtype, saved, sums, dy, x, y, ddx, dd_weight, dd_bias,
                                                 dd_residual, (True, True, weight is not None))
    return d_dy, d_x, _or_nothing(d_weight, x)


@double_backward.register_fake
def _(ddx, dd_weight, dd_bias, dd_residual, dy, x, weight, y, saved, sums, name, settings, training):
    return _dense_like(x), _dense_like(x), _nothing(x) if weight is None else torch.empty_like(weight)


def _keep_for_backward(ctx, inputs, output):
    x, weight, bias, residual, _, _, name, ctx.settings, ctx.training = inputs
    y, saved = output
    relu = _is_relu(ctx.settings)
    ctx.save_for_backward(x, weight, y if relu else None, saved, name)
    ctx.mark_non_differentiable(saved)
    ctx.has_bias = bias is not None
    ctx.has_residual = residual is not None
    ctx.masked_residual = relu and ctx.has_residual


def _backward(ctx, dy, _):
    x, weight, y, saved, name = ctx.saved_tensors
    y = None if y is None else y.detach()
    dx, d_weight, d_bias, d_residual, _ = torch.ops.syncbn.backward(
        dy, x, weight, y, saved, name, ctx.settings, ctx.training, ctx.has_bias, ctx.masked_residual)
    if not ctx.masked_residual:
        d_residual = dy
    return (dx, d_weight if weight is not None else None, d_bias if ctx.has_bias else None,
            d_residual if ctx.has_residual else None, None, None, None, None, None)


def _keep_for_double_backward(ctx, inputs, output):
    dy, x, weight, y, saved, name, ctx.settings, ctx.training, ctx.has_bias, ctx.masked_residual = inputs
    ctx.save_for_backward(dy, x, weight, y, saved, output[4], name)
    ctx.mark_non_differentiable(output[4])


def _double_backward(ctx, ddx, dd_weight, dd_bias, dd_residual, _):
    dy, x, weight, y, saved, sums, name = ctx.saved_tensors
    d_dy, d_x, d_weight = torch.ops.syncbn.double_backward(
        ddx, dd_weight if weight is not None else None, dd_bias if ctx.has_bias else None,
        dd_residual if ctx.masked_residual else None, dy, x, weight, y, saved, sums, name, ctx.settings, ctx.training)
    return d_dy, d_x, d_weight if weight is not None else None, None, None, None, None, None, None, None


forward.register_autograd(_backward, setup_context=_keep_for_backward)
backward.register_autograd(_double_backward, setup_context=_keep_for_double_backward)
