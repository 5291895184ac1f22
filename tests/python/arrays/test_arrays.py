# SPDX-License-Identifier: Apache-2.0

"""Arrays of every form: used where they lie if they are dense, else copied once; others than NumPy's too."""

import tracemalloc

import data
import ml_dtypes
import numpy as np
import pytest
import syncbn

SHAPE = (4, 3, 5, 6)


class OnlyDlpack:
    """What another library's array is to NumPy."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def channels_last_in_memory(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def unaligned(a):
    memory = np.empty(a.nbytes + 1, np.uint8)[1:]
    copy = memory.view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


FORMS = {
    "dense": lambda a: a,
    "channels last in memory": channels_last_in_memory,
    "every second": lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "Fortran order": np.asfortranarray,
    "permuted": lambda a: np.ascontiguousarray(a.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2),
    "unaligned": unaligned,
    "DLPack": OnlyDlpack,
    "subclass": lambda a: a.view(np.matrix if a.ndim == 2 else np.recarray),
}


def results(form, dtype=np.float32, residual=True, shape=SHAPE):
    x, z, dy = (data.heavy_tailed(seed, shape, dtype) for seed in range(3))
    bn = syncbn.SyncBatchNorm(shape[1], activation="relu")
    y = bn(form(x), form(z) if residual else None)
    gradients = bn.backward(form(dy))
    return [y, *(gradients if residual else (gradients,)), bn.weight_grad, bn.bias_grad, bn.running_var]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", data.DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_same_bits(name, dtype):
    if name == "DLPack" and dtype is ml_dtypes.bfloat16:
        pytest.skip("NumPy's DLPack has no bfloat16")
    for got, expected in zip(results(FORMS[name], dtype), results(FORMS["dense"], dtype), strict=True):
        assert data.same_bits(got, expected)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 1), (6, 3, 1, 1), (6, 3, 0), (0, 3, 2), (2, 3, 1, 4), (1, 3, 4, 1)])
@pytest.mark.parametrize("name", ["channels last in memory", "every second", "Fortran order"])
def test_same_bits_of_degenerate_shapes(shape, name):
    if name == "every second" and len(shape) < 3:
        pytest.skip("has no third axis")
    for got, expected in zip(results(FORMS[name], shape=shape), results(FORMS["dense"], shape=shape), strict=True):
        assert data.same_bits(got, expected)


def test_axes_last():
    x = data.heavy_tailed(1, SHAPE, np.float32)
    first, last = syncbn.SyncBatchNorm(3), syncbn.SyncBatchNorm(3, channels_last=True)
    y = last(np.moveaxis(x, 1, -1))  # strided: dense in the other order
    assert data.same_bits(first(x), np.moveaxis(y, -1, 1))
    assert data.same_bits(first.backward(x), np.moveaxis(last.backward(np.moveaxis(x, 1, -1)), -1, 1))
    with pytest.raises(ValueError, match=r"^x: .*\(3,\).*\(N, ..., C\)"):
        last(np.ones(3, np.float32))


def test_memory_order_is_kept():
    x = channels_last_in_memory(data.heavy_tailed(1, SHAPE, np.float32))
    bn = syncbn.SyncBatchNorm(3)
    assert bn(x).strides == x.strides
    assert bn.backward(np.ones_like(x)).strides == x.strides


@pytest.mark.parametrize("name, copies", [("dense", 0), ("channels last in memory", 0), ("DLPack", 0),
                                          ("every second", 1), ("unaligned", 1)])
def test_copies(name, copies):
    """The peak of NumPy's memory is the output, and a copy of the input where that is not dense."""
    x = FORMS[name](np.ones((8, 4, 64, 64), np.float32))
    bn = syncbn.SyncBatchNorm(4)
    bn(x)
    size = 8 * 4 * 64 * 64 * 4
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        y = bn(x)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert y.nbytes == size
    assert (copies + 1) * size <= peak < (copies + 1.2) * size


def test_expanded_gradient():
    """The gradient of a sum, one element seen everywhere."""
    x = data.heavy_tailed(1, SHAPE, np.float32)
    bn = syncbn.SyncBatchNorm(3)
    bn(x)
    expanded = bn.backward(np.broadcast_to(np.float32(1), SHAPE))
    assert data.same_bits(expanded, bn.backward(np.ones_like(x)))


def test_input_of_another_memory_order_than_residual_and_gradient():
    x, z, dy = (data.heavy_tailed(seed, SHAPE, np.float32) for seed in range(3))
    bn = syncbn.SyncBatchNorm(3)
    y, gradients = bn(x, channels_last_in_memory(z)), bn.backward(channels_last_in_memory(dy))
    assert data.same_bits(y, bn(x, z))
    for got, expected in zip(gradients, bn.backward(dy), strict=True):
        assert data.same_bits(got, expected)


def test_read_only_input():
    x = data.heavy_tailed(1, SHAPE, np.float32)
    x.flags.writeable = False
    syncbn.SyncBatchNorm(3)(x)


def test_input_is_not_written():
    x, dy = (data.heavy_tailed(seed, SHAPE, np.float32) for seed in (1, 2))
    copies = x.copy(), dy.copy()
    bn = syncbn.SyncBatchNorm(3)
    bn(x)
    bn.backward(dy)
    assert data.same_bits(x, copies[0]) and data.same_bits(dy, copies[1])


def test_calls_in_turn():
    """Backward belongs to the last call; a failed call leaves it."""
    x, other = (data.heavy_tailed(seed, SHAPE, np.float32) for seed in (1, 2))
    bn = syncbn.SyncBatchNorm(3)
    bn(x)
    expected = bn.backward(x)
    with pytest.raises(ValueError):
        bn(other[:, :2])
    assert data.same_bits(bn.backward(x), expected)
    bn(other)
    assert not data.same_bits(bn.backward(x), expected)
