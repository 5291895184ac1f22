# SPDX-License-Identifier: Apache-2.0

"""The same bits on 1 to 5 ranks, uneven and empty shares, both memory orders, eager and traced."""

import pytest
import torch
import torch.distributed as dist

import syncbn
from syncbn.torch import SyncBatchNorm
from processes import Ranks

SAMPLES = 7
ORDERS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def batch(dtype, order):
    generator = torch.Generator().manual_seed(9)
    x, dy = (torch.randn(SAMPLES, 5, 6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    x = torch.exp(3 * x)  # heavy tails: sums in floating point depend on their order
    return x.to(dtype).to(memory_format=order), dy.to(dtype).to(memory_format=order)


def results(rank, sizes, by):
    """Of three steps for each dtype and order: y, dx, running statistics."""
    begin, end = sum(sizes[:rank]), sum(sizes[:rank + 1])
    every = []
    for dtype in DTYPES:
        for order in ORDERS:
            torch.manual_seed(0)
            layer = SyncBatchNorm(5, activation="relu", name=f"{dtype} {order}")
            torch.nn.init.normal_(layer.weight), torch.nn.init.normal_(layer.bias)
            x, dy = batch(dtype, order)
            for _ in range(2):
                leaf = x[begin:end].requires_grad_()
                y = getattr(layer, by)(leaf, None)
                y.backward(dy[begin:end])
            every.append((y.detach(), leaf.grad, layer.running_mean, layer.running_var))
    return every


def joined(ranks):
    return [(torch.cat([r[i][0] for r in ranks]), torch.cat([r[i][1] for r in ranks]), *ranks[0][i][2:])
            for i in range(len(ranks[0]))]


@pytest.fixture(scope="module")
def alone():
    return results(0, (SAMPLES,), "forward")


def assert_same_bits(one, other):
    for a, b in zip(one, other):
        for x, y in zip(a, b):
            assert torch.equal(x, y)


def test_memory_orders_and_operators(alone):
    for first, last in zip(alone[::2], alone[1::2]):
        assert_same_bits([first], [last])
    assert_same_bits(results(0, (SAMPLES,), "_forward_by_operators"), alone)


@pytest.mark.parametrize("by", ["forward", "_forward_by_operators"])
def test_two_ranks(two_ranks, alone, by):
    for sizes in ((3, 4), (0, 7)):
        ranks = two_ranks(results, sizes, by)
        assert_same_bits(joined(ranks), alone)
        for a, b in zip(*ranks):
            assert torch.equal(a[2], b[2]) and torch.equal(a[3], b[3])


def test_three_ranks(three_ranks, alone):
    for sizes in ((1, 5, 1), (0, 0, 7)):
        assert_same_bits(joined(three_ranks(results, sizes, "forward")), alone)


@pytest.mark.parametrize("sizes", [(1, 3, 0, 3), (2, 0, 1, 3, 1)], ids=len)
def test_more_ranks(alone, sizes):
    ranks = Ranks(len(sizes))
    try:
        assert_same_bits(joined(ranks(results, sizes, "forward")), alone)
    finally:
        ranks.close()


def plain_sums(rank, sizes):
    """The control: the same data summed in floating point."""
    x, _ = batch(torch.float32, torch.contiguous_format)
    part = x[sum(sizes[:rank]):sum(sizes[:rank + 1])].sum((0, 2, 3))
    dist.all_reduce(part)
    return part


def test_plain_sums_depend_on_the_split(two_ranks):
    assert not torch.equal(two_ranks(plain_sums, (3, 4))[0], two_ranks(plain_sums, (1, 6))[0])


def test_the_core_has_the_same_bits():
    x, dy = batch(torch.float32, torch.contiguous_format)
    ours, core = SyncBatchNorm(5), syncbn.SyncBatchNorm(5)
    leaf = x.requires_grad_()
    y = ours(leaf)
    y.backward(dy)
    assert torch.equal(y, torch.from_numpy(core(x.detach().numpy())))
    assert torch.equal(leaf.grad, torch.from_numpy(core.backward(dy.numpy())))
    assert torch.equal(ours.running_var, torch.from_numpy(core.running_var.copy()))


def running_statistics(rank, steps):
    layer = SyncBatchNorm(3)
    generator = torch.Generator().manual_seed(4)
    for step in range(steps):
        x = torch.randn(6, 3, generator=generator) * 3 + step / 10
        cut = step % 7  # 0 to 6 of 6 samples on rank 0
        layer(x[:cut] if rank == 0 else x[cut:])
    return layer.running_mean, layer.running_var, layer.num_batches_tracked


def test_running_statistics_over_many_uneven_batches(two_ranks):
    layer = SyncBatchNorm(3)
    reference = torch.nn.BatchNorm1d(3)
    generator = torch.Generator().manual_seed(4)
    for step in range(100):
        x = torch.randn(6, 3, generator=generator) * 3 + step / 10
        layer(x), reference(x)
    for mean, var, batches in two_ranks(running_statistics, 100):
        assert torch.equal(mean, layer.running_mean) and torch.equal(var, layer.running_var) and batches == 100
        assert torch.allclose(mean, reference.running_mean, atol=1e-5)
        assert torch.allclose(var, reference.running_var, rtol=1e-5)
