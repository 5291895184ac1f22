"""The NumPy layer."""

import ctypes

import numpy as np

from . import _core

_DTYPES = {
    np.dtype(np.float16): _core.DType.float16,
    np.dtype(np.float32): _core.DType.float32,
    np.dtype(np.float64): _core.DType.float64,
}


class SyncBatchNorm:
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True,
                 process_group=None, dtype=None, *, activation=None, affine_gradients="local",
                 nonfinite="propagate"):
        self.dtype = np.dtype(np.float32 if dtype is None else dtype)
        self._core = _core.Layer(
            num_features, eps=eps, momentum=momentum, affine=affine, track_running_stats=track_running_stats,
            process_group=process_group, dtype=_DTYPES[self.dtype], activation=activation or "none",
            affine_gradients=affine_gradients, nonfinite=nonfinite)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, None)
        for name, address, entry_dtype, size in self._core.state():
            numpy_dtype = np.dtype(np.int64) if entry_dtype is None else self.dtype
            memory = (ctypes.c_char * (size * numpy_dtype.itemsize)).from_address(address)
            setattr(self, name, np.frombuffer(memory, numpy_dtype))

    def __call__(self, x, residual=None):
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        saved = _core.Saved()
        self._core.forward_at(saved, x.ctypes.data, y.ctypes.data, 0 if residual is None else residual.ctypes.data,
                              x.shape, _DTYPES[x.dtype], _core.Layout.channels_first)
        self._last = saved, x, y
        return y

    def backward(self, dy):
        saved, x, y = self._last
        dy = np.ascontiguousarray(dy)
        dx = np.empty_like(x)
        self._core.backward_at(saved, dy.ctypes.data, x.ctypes.data, y.ctypes.data, dx.ctypes.data, 0, x.shape,
                               _DTYPES[x.dtype], _core.Layout.channels_first)
        return dx
