# SPDX-License-Identifier: Apache-2.0

"""The bits do not depend on how the batch is spread, nor on memory order or threads."""

import data
import numpy as np
import syncbn
from hypothesis import given, settings
from hypothesis import strategies as st

SHARES = st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(lambda shares: sum(shares) > 1)


def steps(x, dy, residual, options, shares, channels_last=False, threads=0):
    """Two steps of a layer over ranks with these shares of the batch: all that has to be the same."""
    bounds = np.cumsum([0, *shares])

    def body(rank):
        mine = slice(bounds[rank], bounds[rank + 1])
        if threads:
            syncbn.set_num_threads(threads)
        bn = syncbn.SyncBatchNorm(x.shape[1], channels_last=channels_last, affine_gradients="group", **options)
        bn.weight[...] = np.linspace(0.5, 2, x.shape[1])

        def arranged(a):
            return np.ascontiguousarray(np.moveaxis(a[mine], 1, -1)) if channels_last else a[mine]

        def back(a):
            return np.moveaxis(a, -1, 1) if channels_last else a

        for _ in range(2):
            y = bn(arranged(x), None if residual is None else arranged(residual))
            gradients = bn.backward(arranged(dy))
            gradients = gradients if residual is not None else (gradients,)
        return [back(y), *map(back, gradients)], [bn.weight_grad, bn.bias_grad, bn.running_mean, bn.running_var]

    ranks = syncbn.run_ranks(len(shares), body)
    return [np.concatenate(parts) for parts in zip(*(tensors for tensors, _ in ranks))], [state for _, state in ranks]


def assert_same(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        assert data.same_bits(a, b)
    for state in one[1] + other[1]:
        for a, b in zip(one[1][0], state, strict=True):
            assert data.same_bits(a, b)


@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(shares=SHARES, dtype=st.sampled_from(data.DTYPES), parameters=st.sampled_from(data.DTYPES),
       spatial=st.lists(st.integers(1, 3), max_size=3), relu=st.booleans(), with_residual=st.booleans(),
       channels_last=st.booleans(), threads=st.integers(0, 3), seed=st.integers(0, 2**16))
def test_split(shares, dtype, parameters, spatial, relu, with_residual, channels_last, threads, seed):
    shape = (sum(shares), 3, *spatial)
    x, dy, residual = (data.heavy_tailed(seed + i, shape, dtype) for i in range(3))
    residual = residual if with_residual else None
    options = {"dtype": parameters, "activation": "relu" if relu else None}
    alone = steps(x, dy, residual, options, [shape[0]])
    assert_same(alone, steps(x, dy, residual, options, shares, channels_last, threads))


def test_large_channels_on_several_threads():
    x, dy = (data.heavy_tailed(seed, (6, 2, 40, 50), np.float32) for seed in (1, 2))
    alone = steps(x, dy, None, {}, [6], threads=1)
    assert_same(alone, steps(x, dy, None, {}, [1, 0, 3, 2], threads=2))
    assert_same(alone, steps(x, dy, None, {}, [6], channels_last=True, threads=3))


def test_control_plain_sums_depend_on_the_order():
    x = data.heavy_tailed(1, (6, 2, 40, 50), np.float32)
    whole = x.sum((0, 2, 3), dtype=np.float64)
    parts = sum(x[i:i + 2].sum((0, 2, 3), dtype=np.float64) for i in (4, 0, 2))
    assert not np.array_equal(whole, parts)


def test_control_without_synchronization():
    """Groups of one rank each give other statistics than the whole batch."""
    x = data.heavy_tailed(1, (4, 2, 3), np.float32)
    whole = syncbn.SyncBatchNorm(2)(x)
    parts = [syncbn.SyncBatchNorm(2)(x[i:i + 2]) for i in (0, 2)]
    assert not data.same_bits(whole, np.concatenate(parts))


def test_running_statistics_over_many_uneven_batches():
    """100 batches with another split each time: two ranks and one keep the same running statistics."""
    sizes = np.random.default_rng(3).integers(0, 5, (100, 2)) + [[0, 1]] * 100
    batches = [data.heavy_tailed(seed, (int(a + b) + 1, 3, 2), np.float32) for seed, (a, b) in enumerate(sizes)]

    def body(rank):
        bn = syncbn.SyncBatchNorm(3)
        for batch, (first, _) in zip(batches, sizes, strict=True):
            bn(batch[:first] if rank == 0 else batch[first:])
        return bn.state_dict()

    alone = syncbn.SyncBatchNorm(3)
    for batch in batches:
        alone(batch)
    for state in syncbn.run_ranks(2, body):
        for name, value in alone.state_dict().items():
            assert data.same_bits(state[name], value)
    assert alone.num_batches_tracked == 100
