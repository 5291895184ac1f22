# SPDX-License-Identifier: Apache-2.0

"""Runs on each of five ranks: the core's bits, however the batch is spread and however a tensor lies in memory."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.common.dtype import dtype_to_nptype
from worker import RANK, bits, group_of, layer, step

import syncbn

GROUPS = {size: group_of(range(size), f"first {size}") for size in range(1, 6)}
SHARES = [(5,), (2, 3), (0, 5), (4, 0, 1), (1, 1, 3), (1, 0, 2, 2), (0, 5, 0, 0), (1, 1, 1, 1, 1), (0, 2, 1, 0, 2)]
DTYPES = [(mindspore.float16, mindspore.float32), (mindspore.bfloat16, mindspore.float32),
          (mindspore.float32, mindspore.float32), (mindspore.float32, mindspore.bfloat16),
          (mindspore.float64, mindspore.float64)]


class Alone:
    rank, size, all_reduce_sum = 0, 1, None


def of_the_core(x, dy, weight, bias):
    """The NumPy layer, which is held to the core's golden vectors, alone on the whole batch."""
    made = syncbn.SyncBatchNorm(x.shape[1], process_group=Alone(), dtype=weight.dtype)
    made.weight[...], made.bias[...] = weight, bias
    return [made(x), made.backward(dy), made.running_mean, made.running_var]


def channels_first(a):
    return Tensor.from_numpy(a.copy())


def channels_last(a):
    """The same shape over memory in which a place's channels are neighbours: MindSpore's tensors know no memory format,
    but have strides."""
    tensor = Tensor.from_numpy(np.ascontiguousarray(np.moveaxis(a, 1, -1))).transpose(0, 3, 1, 2)
    assert tensor.shape == a.shape and (a.size == 0 or not tensor.is_contiguous())
    return tensor


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("order", [channels_first, channels_last])
@pytest.mark.parametrize("dtype, parameter_dtype", DTYPES, ids=str)
def test_the_cores_bits_on_any_split(shares, order, dtype, parameter_dtype):
    """One batch of five samples with a heavy tail, in one step."""
    if RANK >= len(shares):
        return
    random = np.random.default_rng(11)
    x = random.standard_t(2, (5, 4, 3, 3)) + [[[[0]], [[10]], [[-300]], [[1e-4]]]]
    x = x.astype(dtype_to_nptype(dtype))
    dy = random.standard_normal(x.shape).astype(x.dtype)
    weight, bias = random.standard_normal((2, 4)).astype(dtype_to_nptype(parameter_dtype))
    expected = of_the_core(x, dy, weight, bias)

    made = layer(4, process_group=GROUPS[len(shares)], dtype=parameter_dtype)
    made.weight.set_data(Tensor.from_numpy(weight))
    made.bias.set_data(Tensor.from_numpy(bias))
    first = sum(shares[:RANK])
    mine = slice(first, first + shares[RANK])
    y, dx, *_ = step(made, order(x[mine]), order(dy[mine]))
    found = [y, dx, made.running_mean.asnumpy(), made.running_var.asnumpy()]
    assert list(map(bits, found)) == list(map(bits, [expected[0][mine], expected[1][mine], *expected[2:]]))
    if 0 < shares[RANK] < 5:  # control: another split of other data would be seen
        assert bits(y) != bits(of_the_core(x[mine].copy(), dy[mine].copy(), weight, bias)[0])
