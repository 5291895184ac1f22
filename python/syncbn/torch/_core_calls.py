# SPDX-License-Identifier: Apache-2.0

"""Calls of a core layer on tensors, without autograd: tensors in, new tensors out.

If a training call fails here, before it reaches the core (for want of memory, for example), the peers get an error
instead of waiting.
"""

import torch

from .. import _core
from .._errors import InvalidArgument
from .._framework_group import fail_call
from ._spec import DTYPES

_FIRST = _core.Layout.channels_first
_LAST = _core.Layout.channels_last
# From this size on, glibc maps new memory for each tensor. Its page faults, one for 4 KiB, take longer than the layer: with
# huge pages a forward of (32,256,56,56) takes half the time. Smaller tensors gain nothing.
_HUGE_PAGES_FROM = 32 << 20  # bytes
_CHANNEL_VALUES = "weight", "bias", "running_mean", "running_var"


def dense(x):
    """x and its memory order. If the memory of x is in neither order, a copy in channels-first order."""
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_contiguous():
        return x, _FIRST
    if x.dim() > 2 and x.movedim(1, -1).is_contiguous():
        return x, _LAST
    return x.contiguous(), _FIRST


def _new_like(x):
    """A tensor as x, in the same memory order, whose values are not set."""
    tensor = torch.empty_like(x)
    if tensor.nbytes >= _HUGE_PAGES_FROM:
        _core.prefer_huge_pages(tensor.data_ptr(), tensor.nbytes)
    return tensor


def _in_order_of(x, layout, tensor):
    """The tensor, copied if its memory order is not that of x."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if layout is _FIRST:
        return tensor.contiguous()
    if tensor.movedim(1, -1).is_contiguous():
        return tensor
    return _new_like(x).copy_(tensor)


def _address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def _addresses(values, dtype, channels):
    """Addresses of parameters and buffers, checked. Asked at each call, since loading a state may move them."""
    result = []
    channel_values, counter = values[:4], values[4]
    for tensor in channel_values:
        if tensor is None:
            result.append(0)
        elif tensor.dtype is dtype and tensor.numel() == channels and tensor.is_cpu and tensor.is_contiguous():
            result.append(tensor.data_ptr() or _raise_for_bad_value(channel_values, dtype, channels))
        else:
            _raise_for_bad_value(channel_values, dtype, channels)
    if counter is None:
        result.append(0)
    elif counter.dtype is torch.int64 and counter.numel() == 1 and counter.is_cpu:
        result.append(counter.data_ptr())
    else:
        raise TypeError(f"num_batches_tracked: {counter.dtype} of shape {tuple(counter.shape)} on {counter.device}, "
                        "expected one torch.int64 on the CPU")
    return tuple(result)


def _raise_for_bad_value(channel_values, dtype, channels):
    for name, tensor in zip(_CHANNEL_VALUES, channel_values):
        if tensor is None:
            continue
        if tensor.is_cpu and tensor.data_ptr() == 0:  # a DTensor, for example, which has no memory of its own
            raise TypeError(f"{name}: {type(tensor).__name__}, expected a plain tensor")
        if tensor.dtype is not dtype:
            raise TypeError(f"{name}: {tensor.dtype}, expected {dtype}, the dtype of the layer's other parameters and "
                            "buffers")
        if tensor.numel() != channels:
            raise InvalidArgument(f"{name} should contain {channels} elements not {tensor.numel()}")
        if not tensor.is_cpu:
            raise InvalidArgument(f"{name}: on {tensor.device}, expected it on the CPU, where the input is")
        if not tensor.is_contiguous():
            raise InvalidArgument(f"{name}: strides {tensor.stride()}, expected contiguous memory")


def error_if_not_dense(tensor, name="input"):
    """The TypeError for a sparse or nested tensor; None for a dense one."""
    if tensor.is_nested:
        return TypeError(f"{name}: a nested tensor, expected a dense tensor: pass its parts as one batch, "
                         f"torch.cat({name}.unbind())")
    if tensor.layout is not torch.strided:
        return TypeError(f"{name}: {tensor.layout}, expected a dense tensor: pass {name}.to_dense()")
    return None


def check_residual(residual, x):
    """Raise an error unless `residual` is a dense tensor of the shape and dtype of x."""
    if not isinstance(residual, torch.Tensor):
        raise TypeError(f"residual: {type(residual).__name__}, expected a dense torch.Tensor")
    if error := error_if_not_dense(residual, "residual"):
        raise error
    if residual.shape != x.shape or residual.dtype is not x.dtype:
        raise InvalidArgument(f"residual: {residual.dtype} of shape {tuple(residual.shape)}, "
                              f"expected x's {x.dtype} of shape {tuple(x.shape)}")


# All functions take a `_core.FrameworkLayer` and the number of the layer (`ExtraOptions.number`).


def normalize(core_layer, number, dtype, *, x, values, residual, training, track):
    """Return y and what the backward needs of the statistics.

    `values`: weight, bias, running_mean, running_var and num_batches_tracked, or None; `dtype`: that of the first four.
    With `track`, a training call also updates the running statistics.
    """
    try:
        shape = x.shape
        values = _addresses(values, dtype, shape[1])
        if residual is not None:
            check_residual(residual, x)
        x, layout = dense(x)
        y = _new_like(x)
        saved = torch.empty(core_layer.saved_size, dtype=torch.float64)
        if residual is not None:
            residual = _in_order_of(x, layout, residual)
        address = x.data_ptr()  # an error if x is not dense; asking for x.layout first would take 0.07 µs of 13
    except Exception as error:
        error = error_if_not_dense(x) or error
        fail_call(error, core_layer, _core.Direction.forward)
        raise error
    core_layer.forward(number=number, saved=saved.data_ptr(), values=values, x=address, y=y.data_ptr(),
                       residual=_address(residual), shape=shape, dtype=DTYPES[x.dtype], layout=layout, training=training,
                       track=track)
    return y, saved


def track(core_layer, dtype, running_mean, running_var, num_batches_tracked, saved):
    """Update the running statistics by what a training forward has saved."""
    values = _addresses((None, None, running_mean, running_var, num_batches_tracked), dtype, core_layer.num_features)
    core_layer.track(saved=saved.data_ptr(), values=values)


def backward(core_layer, number, dtype, *, saved, dy, x, y, wanted, with_sums):
    """Return dx, d_weight, d_bias and d_residual, and the sums that a double backward needs.

    `wanted`: a bool for each of the four gradients; one that is not wanted is None. Without `with_sums`, so are the sums.
    """
    try:
        x, layout = dense(x)
        dy = _in_order_of(x, layout, dy)
        if y is not None:
            y = _in_order_of(x, layout, y)
        shape = x.shape
        dx = _new_like(x) if wanted[0] else None
        d_weight = torch.empty(shape[1], dtype=dtype) if wanted[1] else None
        d_bias = torch.empty(shape[1], dtype=dtype) if wanted[2] else None
        d_residual = _new_like(x) if wanted[3] else None
        sums = torch.empty(core_layer.sums_size, dtype=torch.float64) if with_sums else None
    except Exception as error:
        fail_call(error, core_layer, _core.Direction.backward)
        raise
    core_layer.backward(number=number, saved=saved.data_ptr(), sums=_address(sums), dy=dy.data_ptr(), x=x.data_ptr(),
                        y=_address(y), dx=_address(dx), d_residual=_address(d_residual), d_weight=_address(d_weight),
                        d_bias=_address(d_bias), shape=shape, dtype=DTYPES[x.dtype], layout=layout)
    return dx, d_weight, d_bias, d_residual, sums


def double_backward(core_layer, number, dtype, *, saved, sums, dy, x, y, ddx, dd_weight, dd_bias, dd_residual, wanted):
    """Return the gradients of dy, x and weight, from those of the four gradients of `backward`.

    `wanted`: a bool for each of the three results; one that is not wanted is None.
    """
    try:
        x, layout = dense(x)
        dy = _in_order_of(x, layout, dy)
        y, ddx, dd_residual = (None if t is None else _in_order_of(x, layout, t) for t in (y, ddx, dd_residual))
        dd_weight, dd_bias = (None if t is None else t.contiguous() for t in (dd_weight, dd_bias))
        d_dy = _new_like(x) if wanted[0] else None
        d_x = _new_like(x) if wanted[1] else None
        d_weight = torch.empty(x.shape[1], dtype=dtype) if wanted[2] else None
    except Exception as error:
        fail_call(error, core_layer, _core.Direction.double_backward)
        raise
    core_layer.double_backward(number=number, saved=saved.data_ptr(), sums=sums.data_ptr(), dy=dy.data_ptr(),
                               x=x.data_ptr(), y=_address(y), ddx=_address(ddx), dd_residual=_address(dd_residual),
                               dd_weight=_address(dd_weight), dd_bias=_address(dd_bias), d_dy=_address(d_dy),
                               d_x=_address(d_x), d_weight=_address(d_weight), shape=x.shape, dtype=DTYPES[x.dtype],
                               layout=layout)
    return d_dy, d_x, d_weight
