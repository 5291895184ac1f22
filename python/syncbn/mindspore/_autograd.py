# SPDX-License-Identifier: Apache-2.0

"""The layer's calls in MindSpore's automatic differentiation."""

import contextlib

import mindspore
import numpy as np
from mindspore import Tensor

from .. import _core
from .._dtypes import CORE_DTYPES
from .._framework_group import fail_call
from ._private import AutogradFunction, numpy_dtype

#: The core's dtype of each dtype of a tensor.
DTYPES = {getattr(mindspore, name): dtype for name, dtype in CORE_DTYPES.items()}


def _empty(shape, dtype):
    # On CPU, mint.empty() takes ten times as long.
    return Tensor.from_numpy(np.empty(shape, numpy_dtype(dtype)))


def _address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


@contextlib.contextmanager
def _preparing(core_layer, direction):
    """The steps before a call of the core_layer. If they fail, the error names the call, and the peers get it, too.

    They fail for want of memory, or with the error of an earlier operator that MindSpore was still running.
    """
    try:
        yield
    except Exception as error:
        fail_call(error, core_layer, direction)
        raise


# data_ptr() waits until MindSpore has finished all earlier operators. Then the core may read and write the memory.


class Normalize(AutogradFunction):
    """apply(core_layer, number, values, training, track, x, weight, bias) returns y.

    `number`: that of the layer. `values`: weight, bias, running_mean, running_var and num_batches_tracked, or None. `track`:
    update the running ones.
    """

    @staticmethod
    def forward(ctx, core_layer, number, values, training, track, x, weight, bias):
        with _preparing(core_layer, _core.Direction.forward):
            y = _empty(x.shape, x.dtype)
            saved = np.empty(core_layer.saved_size)
            addresses = {"values": tuple(map(_address, values)), "x": x.data_ptr(), "y": y.data_ptr(), "residual": 0}
        core_layer.forward(number=number, saved=saved.ctypes.data, **addresses, shape=x.shape, dtype=DTYPES[x.dtype],
                     layout=_core.Layout.channels_first, training=training, track=track)
        ctx.core_layer, ctx.number, ctx.saved = core_layer, number, saved
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    def backward(ctx, dy):
        with _preparing(ctx.core_layer, _core.Direction.backward):
            x, weight = ctx.saved_tensors  # must come first: it may recompute, and so communicate
            dy.data_ptr()  # waits; else MindSpore might raise another operator's error between here and the sum
        wanted = ctx.needs_input_grad[5:]
        gradients = iter(Gradient.apply(ctx.core_layer, ctx.number, ctx.saved, wanted, dy, x, weight))
        return None, None, None, None, None, *(next(gradients) if is_wanted else None for is_wanted in wanted)


class Gradient(AutogradFunction):
    """apply(core_layer, number, saved, wanted, dy, x, weight) returns the wanted ones of dx, d_weight and d_bias."""

    @staticmethod
    def forward(ctx, core_layer, number, saved, wanted, dy, x, weight):
        with _preparing(core_layer, _core.Direction.backward):
            dy = dy.to(x.dtype).contiguous()
            dx, d_weight, d_bias = gradients = [_empty(t.shape, t.dtype) if is_wanted else None
                                                for t, is_wanted in zip((x, weight, weight), wanted)]
            addresses = {"dy": dy.data_ptr(), "x": x.data_ptr(), "y": 0, "dx": _address(dx), "d_residual": 0,
                         "d_weight": _address(d_weight), "d_bias": _address(d_bias)}
        core_layer.backward(number=number, saved=saved.ctypes.data, sums=0, **addresses, shape=x.shape, dtype=DTYPES[x.dtype],
                      layout=_core.Layout.channels_first)
        return tuple(gradient for gradient in gradients if gradient is not None)

    @staticmethod
    def backward(ctx, *_):
        # Without this function, MindSpore would silently take the gradient of a gradient for zero.
        raise RuntimeError("syncbn.mindspore.SyncBatchNorm has first derivatives only")
