# SPDX-License-Identifier: Apache-2.0

"""The layer as operators of torch.library, for everything that traces: compile, export, tensor subclasses, modes.

torch allows no autograd for an operator that changes its arguments. So `forward` changes nothing, and a separate
operator, `track`, updates the running statistics. Saved programs hold the operators' names and signatures and the text
of `encoded_settings`: these must not change.
"""

import functools
from typing import Optional, Tuple  # torch 2.4 reads no newer forms from a signature

import torch
from torch import Tensor

from . import _core_calls
from .. import _core
from .._framework_group import error_text, fail_peers, single_rank_group
from .._layer_spec import LayerSpec
from ._extra_options import identity_of
from ._process_group import framework_group
from ._recompute import moves_statistics


def encoded_settings(spec, process_group_name):
    """The settings of a layer as a str, since an operator takes no other object.

    num_features and the name are left out. An operator finds num_features in its tensors: a trace for changing shapes may
    take it for one of the shape's numbers. The name is a tensor of its own: see `identity_tensor`.
    """
    return (f"{spec.eps}|{spec.momentum}|{spec.affine}|{spec.bias}|{spec.track_running_stats}|{spec.dtype}|"
            f"{spec.activation}|{spec.nonfinite}|{process_group_name}")


@functools.lru_cache(maxsize=1024)
def _decoded(settings):
    """The LayerSpec, without num_features and name, and the name of the process group."""
    eps, momentum, affine, bias, track, dtype, activation, nonfinite, process_group_name = settings.split("|", 8)
    spec = LayerSpec(
        num_features=0, affine=affine == "True", bias=bias == "True", track_running_stats=track == "True", dtype=dtype,
        activation=activation, nonfinite=nonfinite, eps=float(eps),
        momentum=None if momentum == "None" else float(momentum))
    return spec, process_group_name


def _core_layer(settings, name, training, num_features):
    """The core's layer, the layer's number, and the dtype of its parameters."""
    spec, process_group_name = _decoded(settings)
    name, number = identity_of(name)
    try:
        group = framework_group(process_group_name) if training else single_rank_group()
        return group.layer(spec._replace(num_features=num_features, name=name)), number, _dtype_of(settings)
    except Exception as error:
        if training:
            fail_peers(framework_group, process_group_name, name, error_text(error))
        raise


def _dtype_of(settings):
    return getattr(torch, _decoded(settings)[0].dtype)


def _is_relu(settings):
    return _decoded(settings)[0].activation == "relu"


def _dense_like(x):
    return torch.empty_like(_core_calls.dense(x)[0])


# An operator's result can't be None: an empty tensor stands for it.


def _nothing(x):
    return x.new_empty(0)


def _or_nothing(tensor, x):
    return _nothing(x) if tensor is None else tensor


@torch.library.custom_op("syncbn::forward", mutates_args=(), device_types="cpu")
def forward(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], residual: Optional[Tensor],
            running_mean: Optional[Tensor], running_var: Optional[Tensor], name: Tensor, settings: str,
            training: bool) -> Tuple[Tensor, Tensor]:
    layer = _core_layer(settings, name, training, x.shape[1])
    if not (training and _decoded(settings)[0].track_running_stats):  # else `track` follows
        moves_statistics(name, False)
    return _core_calls.normalize(*layer, x=x, values=(weight, bias, running_mean, running_var, None), residual=residual,
                                 training=training, track=False)


@forward.register_fake
def _(x, weight, bias, residual, running_mean, running_var, name, settings, training):
    return _dense_like(x), x.new_empty(_core.saved_head + _core.saved_columns * x.shape[1], dtype=torch.float64)


@torch.library.custom_op("syncbn::track", mutates_args=("running_mean", "running_var", "num_batches_tracked"),
                         device_types="cpu")
def track(running_mean: Tensor, running_var: Tensor, num_batches_tracked: Optional[Tensor], saved: Tensor,
          name: Tensor, settings: str) -> None:
    if not moves_statistics(name, True):
        return
    core_layer, _, dtype = _core_layer(settings, name, True, (saved.numel() - _core.saved_head) // _core.saved_columns)
    _core_calls.track(core_layer, dtype, running_mean, running_var, num_batches_tracked, saved)


@track.register_fake
def _(running_mean, running_var, num_batches_tracked, saved, name, settings):
    pass


@torch.library.custom_op("syncbn::backward", mutates_args=(), device_types="cpu")
def backward(dy: Tensor, x: Tensor, weight: Optional[Tensor], y: Optional[Tensor], saved: Tensor, name: Tensor,
             settings: str, training: bool, has_bias: bool,
             masked_residual: bool) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    layer = _core_layer(settings, name, training, x.shape[1])
    dx, d_weight, d_bias, d_residual, sums = _core_calls.backward(
        *layer, saved=saved, dy=dy, x=x, y=y, wanted=(True, weight is not None, has_bias, masked_residual),
        with_sums=True)
    return dx, _or_nothing(d_weight, x), _or_nothing(d_bias, x), _or_nothing(d_residual, x), sums


@backward.register_fake
def _(dy, x, weight, y, saved, name, settings, training, has_bias, masked_residual):
    def like_parameter(wanted):
        return x.new_empty(x.shape[1], dtype=_dtype_of(settings)) if wanted else _nothing(x)

    return (_dense_like(x), like_parameter(weight is not None), like_parameter(has_bias),
            _dense_like(x) if masked_residual else _nothing(x),
            x.new_empty(_core.sums_columns * x.shape[1], dtype=torch.float64))


@torch.library.custom_op("syncbn::double_backward", mutates_args=(), device_types="cpu")
def double_backward(ddx: Optional[Tensor], dd_weight: Optional[Tensor], dd_bias: Optional[Tensor],
                    dd_residual: Optional[Tensor], dy: Tensor, x: Tensor, weight: Optional[Tensor], y: Optional[Tensor],
                    saved: Tensor, sums: Tensor, name: Tensor, settings: str,
                    training: bool) -> Tuple[Tensor, Tensor, Tensor]:
    layer = _core_layer(settings, name, training, x.shape[1])
    d_dy, d_x, d_weight = _core_calls.double_backward(
        *layer, saved=saved, sums=sums, dy=dy, x=x, y=y, ddx=ddx, dd_weight=dd_weight, dd_bias=dd_bias,
        dd_residual=dd_residual, wanted=(True, True, weight is not None))
    return d_dy, d_x, _or_nothing(d_weight, x)


@double_backward.register_fake
def _(ddx, dd_weight, dd_bias, dd_residual, dy, x, weight, y, saved, sums, name, settings, training):
    return _dense_like(x), _dense_like(x), _nothing(x) if weight is None else torch.empty_like(weight)


def _save_for_backward(ctx, inputs, output):
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


def _save_for_double_backward(ctx, inputs, output):
    dy, x, weight, y, saved, name, ctx.settings, ctx.training, ctx.has_bias, ctx.masked_residual = inputs
    ctx.save_for_backward(dy, x, weight, y, saved, output[4], name)
    ctx.mark_non_differentiable(output[4])


def _double_backward(ctx, ddx, dd_weight, dd_bias, dd_residual, _):
    dy, x, weight, y, saved, sums, name = ctx.saved_tensors
    d_dy, d_x, d_weight = torch.ops.syncbn.double_backward(
        ddx, dd_weight if weight is not None else None, dd_bias if ctx.has_bias else None,
        dd_residual if ctx.masked_residual else None, dy, x, weight, y, saved, sums, name, ctx.settings, ctx.training)
    return d_dy, d_x, d_weight if weight is not None else None, None, None, None, None, None, None, None


forward.register_autograd(_backward, setup_context=_save_for_backward)
backward.register_autograd(_double_backward, setup_context=_save_for_double_backward)
