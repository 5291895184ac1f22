"""The layer's calls as MindSpore differentiates them."""

import contextlib

import numpy as np
import mindspore
from mindspore import Tensor
from mindspore.common._grad_function import _Function
from mindspore.common.dtype import dtype_to_nptype
from mindspore.graph.api import _pynative_executor

from .. import _core
from .._framework_group import core_dtype

DTYPES = {dtype: core_dtype(dtype) for dtype in (mindspore.float16, mindspore.bfloat16, mindspore.float32,
                                                 mindspore.float64)}


def _empty(shape, dtype):
    # On CPU mint.empty() takes ten times as long.
    return Tensor.from_numpy(np.empty(shape, dtype_to_nptype(dtype)))


def _recomputing():
    """Whether this is a forward inside a backward pass: recomputation, by Cell.recompute() or mindspore.recompute()."""
    return _pynative_executor.get_current_autodiff_engine_id() != -1


@contextlib.contextmanager
def _before(core):
    """What comes before a call of the core. Where it fails, for want of memory or in an operator that MindSpore still had
    under way, the peers get an error instead of waiting."""
    try:
        yield
    except Exception as error:
        core.fail(f"{type(error).__name__}: {error}")
        raise


# Addresses: asking for one waits until what MindSpore has under way is done, so memory may be read and written after.


class Normalize(_Function):
    """apply(core, values, training, x, weight, bias): y. `values` are the tensors of the core's five values or None."""

    @staticmethod
    def forward(ctx, core, values, training, x, weight, bias):
        with _before(core):
            y = _empty(x.shape, x.dtype)
            saved = np.empty(core.saved_size)
            tensors = (saved.ctypes.data, tuple(0 if v is None else v.data_ptr() for v in values), x.data_ptr(),
                       y.data_ptr(), 0)
            track = training and not _recomputing()
        core.forward(*tensors, x.shape, DTYPES[x.dtype], _core.Layout.channels_first, training, track)
        ctx.core, ctx.saved = core, saved
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    def backward(ctx, dy):
        with _before(ctx.core):
            x, weight = ctx.saved_tensors  # first of all: it may recompute, and so communicate
            dy.data_ptr()  # waits: between here and the sum MindSpore would raise another operator's error
        wanted = ctx.needs_input_grad[3:]
        found = iter(Gradient.apply(ctx.core, ctx.saved, wanted, dy, x, weight))
        return None, None, None, *(next(found) if wants else None for wants in wanted)


class Gradient(_Function):
    """apply(core, saved, wanted, dy, x, weight): those that are wanted of dx, weight_grad and bias_grad."""

    @staticmethod
    def forward(ctx, core, saved, wanted, dy, x, weight):
        with _before(core):
            dy = dy.to(x.dtype).contiguous()
            found = [_empty(t.shape, t.dtype) if wants else None for t, wants in zip((x, weight, weight), wanted)]
            dx, weight_grad, bias_grad = (0 if t is None else t.data_ptr() for t in found)
            tensors = saved.ctypes.data, 0, dy.data_ptr(), x.data_ptr(), 0, dx, 0, weight_grad, bias_grad
        core.backward(*tensors, x.shape, DTYPES[x.dtype], _core.Layout.channels_first)
        return tuple(t for t in found if t is not None)

    @staticmethod
    def backward(ctx, *_):
        # Without this function MindSpore would take the gradient's own gradient for zero.
        raise RuntimeError("syncbn.mindspore.SyncBatchNorm has first derivatives only")
