# SPDX-License-Identifier: Apache-2.0

"""Seeded data and the ways to compare."""

import golden
import ml_dtypes
import numpy as np

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def linspace(start, stop, shape):
    return np.linspace(start, stop, int(np.prod(shape))).astype(np.float32).reshape(shape)


def upstream(shape):
    """The gradient of y of the documented numbers."""
    return (((np.arange(int(np.prod(shape))) * 7) % 11 - 5) / 8).astype(np.float32).reshape(shape)


def heavy_tailed(seed, shape, dtype):
    """Normal numbers times powers of ten of either sign: plain sums of them depend on the order."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(golden.bits(a), golden.bits(b))
