"""Calls of the core on tensors. They know nothing of autograd: inputs in, new tensors out.

What fails here before the core's call, be it for want of memory, the peers of a training call hear of.
"""

import torch

from .. import _core
from .._framework_group import core_dtype, reason_of

DTYPES = {dtype: core_dtype(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
_FIRST = _core.Layout.channels_first
_LAST = _core.Layout.channels_last


def dense(x):
    """x, or a copy of it in channels-first order where its memory is in neither order, and the order."""
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_contiguous():
        return x, _FIRST
    if x.dim() > 2 and x.movedim(1, -1).is_contiguous():
        return x, _LAST
    return x.contiguous(), _FIRST


def _like(tensor, x, layout):
    """The tensor, or a copy of it in the memory order of x."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if layout is _FIRST:
        return tensor.contiguous()
    if tensor.movedim(1, -1).is_contiguous():
        return tensor
    return torch.empty_like(x).copy_(tensor)


def _address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def _addresses(weight, bias, running_mean, running_var, num_batches_tracked, dtype, channels):
    """Of parameters and buffers, 0 where absent. They may move between two calls: loading replaces storage."""
    result = []
    for values in (weight, bias, running_mean, running_var):
        if values is None:
            result.append(0)
        elif values.dtype is dtype and values.numel() == channels and values.is_cpu and values.is_contiguous():
            result.append(values.data_ptr())
        else:
            _refuse((weight, bias, running_mean, running_var), dtype, channels)
    counter = num_batches_tracked
    if counter is not None and not (counter.dtype is torch.int64 and counter.numel() == 1 and counter.is_cpu):
        raise TypeError(f"num_batches_tracked: {counter.dtype} of shape {tuple(counter.shape)} on {counter.device}, "
                        "expected one torch.int64 on the CPU")
    result.append(_address(counter))
    return tuple(result)


def _refuse(all_values, dtype, channels):
    for name, values in zip(("weight", "bias", "running_mean", "running_var"), all_values):
        if values is None:
            continue
        if values.dtype is not dtype:
            raise TypeError(f"{name}: {values.dtype}, expected {dtype}, the dtype of the layer's other parameters and "
                            "buffers")
        if values.numel() != channels:
            raise ValueError(f"{name} should contain {channels} elements not {values.numel()}")
        if not values.is_cpu:
            raise ValueError(f"{name}: on {values.device}, expected it on the CPU, where the input is")
        if not values.is_contiguous():
            raise ValueError(f"{name}: strides {values.stride()}, expected contiguous memory")


def momentum_of(layer):
    """As in torch the cumulative average stands still where nothing counts the batches."""
    return 0.0 if layer.momentum is None and layer.num_batches_tracked is None else layer.momentum


def _check_residual(residual, x):
    if residual.shape != x.shape or residual.dtype is not x.dtype:
        raise ValueError(f"residual: {residual.dtype} of shape {tuple(residual.shape)}, "
                         f"expected x's {x.dtype} of shape {tuple(x.shape)}")


def forward(core, dtype, x, values, residual, training, track):
    """y, and what the backward needs of the statistics. `values`: weight, bias, running_mean, running_var and
    num_batches_tracked; dtype: theirs."""
    try:
        values = _addresses(*values, dtype, x.shape[1])
        if residual is not None:
            _check_residual(residual, x)
        x, layout = dense(x)
        y = torch.empty_like(x)
        saved = torch.empty(core.saved_size, dtype=torch.float64)
        if residual is not None:
            residual = _like(residual, x, layout)
    except Exception as error:
        if training:
            core.fail(reason_of(error))
        raise
    core.forward(saved.data_ptr(), values, x.data_ptr(), y.data_ptr(), _address(residual), x.shape, DTYPES[x.dtype],
                 layout, training, track)
    return y, saved


def track(core, dtype, running_mean, running_var, num_batches_tracked, saved):
    """Moves the running statistics by what a training forward has saved."""
    values = _addresses(None, None, running_mean, running_var, num_batches_tracked, dtype, core.num_features)
    core.track(saved.data_ptr(), values)


def backward(core, dtype, saved, dy, x, y, wants, with_sums):
    """dx, weight's and bias's gradient and the residual's, None where not wanted; what double_backward needs."""
    try:
        x, layout = dense(x)
        dy = _like(dy, x, layout)
        if y is not None:
            y = _like(y, x, layout)
        shape = x.shape
        dx = torch.empty_like(x) if wants[0] else None
        d_weight = torch.empty(shape[1], dtype=dtype) if wants[1] else None
        d_bias = torch.empty(shape[1], dtype=dtype) if wants[2] else None
        d_residual = torch.empty_like(x) if wants[3] else None
        sums = torch.empty(core.sums_size, dtype=torch.float64) if with_sums else None
    except Exception as error:
        core.fail(reason_of(error), saved.data_ptr())
        raise
    core.backward(saved.data_ptr(), _address(sums), dy.data_ptr(), x.data_ptr(), _address(y), _address(dx),
                  _address(d_residual), _address(d_weight), _address(d_bias), shape, DTYPES[x.dtype], layout)
    return dx, d_weight, d_bias, d_residual, sums


def double_backward(core, dtype, saved, sums, dy, x, y, ddx, dd_weight, dd_bias, dd_residual, wants):
    """Gradients of dy, x and weight, None where not wanted, from those of backward's first four results."""
    try:
        x, layout = dense(x)
        dy = _like(dy, x, layout)
        y, ddx, dd_residual = (None if t is None else _like(t, x, layout) for t in (y, ddx, dd_residual))
        dd_weight, dd_bias = (None if t is None else t.contiguous() for t in (dd_weight, dd_bias))
        d_dy = torch.empty_like(x) if wants[0] else None
        d_x = torch.empty_like(x) if wants[1] else None
        d_weight = torch.empty(x.shape[1], dtype=dtype) if wants[2] else None
    except Exception as error:
        core.fail(reason_of(error), saved.data_ptr())
        raise
    core.double_backward(saved.data_ptr(), sums.data_ptr(), dy.data_ptr(), x.data_ptr(), _address(y), _address(ddx),
                         _address(dd_residual), _address(dd_weight), _address(dd_bias), _address(d_dy), _address(d_x),
                         _address(d_weight), x.shape, DTYPES[x.dtype], layout)
    return d_dy, d_x, d_weight
