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
    core = _core.FrameworkLayer(_core.Layer(shape[1]))
    values = [np.ones(shape[1], np.float32) for _ in range(4)] + [np.zeros((), np.int64)]
    addresses = tuple(value.ctypes.data for value in values)
    saved = np.empty(2 + 5 * shape[1])
    gradients = [np.empty(shape[1], np.float32) for _ in range(2)]
    at = {name: a.ctypes.data for name, a in {"x": x, "y": y, "dx": dx, "saved": saved}.items()}
    at_gradients = [g.ctypes.data for g in gradients]
    rest = (shape, _core.DType.float32, _core.Layout.channels_first)

    def core_forward():
        core.forward(at["saved"], addresses, at["x"], at["y"], 0, *rest, True, True)

    def core_backward():
        core.backward(at["saved"], 0, at["x"], at["x"], 0, at["dx"], 0, *at_gradients, *rest)

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
