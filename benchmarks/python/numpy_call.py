# SPDX-License-Identifier: Apache-2.0

"""What a call from NumPy costs beside the same call from C++ addresses: medians of interleaved rounds, in µs.

PYTHONPATH=build/release/python .venv/bin/python benchmarks/python/numpy_call.py
"""

import statistics
import time

import numpy as np
import syncbn
from syncbn import _core

ROUNDS = 31
CALLS = {(2, 2, 2, 2): 1000, (4, 64, 7, 7): 200, (32, 64, 28, 28): 5}


def layers(shape):
    """Forward and backward of the NumPy layer, and of the same core with addresses and no arrays made."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    y, dx = np.empty_like(x), np.empty_like(x)
    front = syncbn.SyncBatchNorm(shape[1])
    core = _core.FrameworkLayer(_core.Layer(shape[1]), "")
    values = [np.ones(shape[1], np.float32) for _ in range(4)] + [np.zeros((), np.int64)]
    addresses = tuple(value.ctypes.data for value in values)
    saved = np.empty(core.saved_size)
    gradients = [np.empty(shape[1], np.float32) for _ in range(2)]
    at_x, at_y, at_dx, at_saved, at_d_weight, at_d_bias = (a.ctypes.data for a in (x, y, dx, saved, *gradients))
    dtype, layout = _core.DType.float32, _core.Layout.channels_first

    def core_forward():
        core.forward(number=0, saved=at_saved, values=addresses, x=at_x, y=at_y, residual=0, shape=shape, dtype=dtype,
                     layout=layout, training=True, track=True)

    def core_backward():
        core.backward(number=0, saved=at_saved, sums=0, dy=at_x, x=at_x, y=0, dx=at_dx, d_residual=0, d_weight=at_d_weight,
                      d_bias=at_d_bias, shape=shape, dtype=dtype, layout=layout)

    keep = (y, dx, values, saved, gradients)
    return {"forward": (lambda: front(x), core_forward), "backward": (lambda: front.backward(x), core_backward)}, keep


def main():
    for shape, count in CALLS.items():
        calls, keep = layers(shape)
        for direction, (front, core) in calls.items():
            times = ([], [])
            for _ in range(ROUNDS):
                for call, taken in zip((front, core), times, strict=True):
                    start = time.perf_counter()
                    for _ in range(count):
                        call()
                    taken.append((time.perf_counter() - start) / count * 1e6)
            numpy, addresses = map(statistics.median, times)
            print(f"{shape!s:18} {direction:8}  NumPy {numpy:8.2f}  addresses {addresses:8.2f}  "
                  f"difference {numpy - addresses:6.2f}")
        del keep


main()
