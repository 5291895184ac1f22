# SPDX-License-Identifier: Apache-2.0

"""Ranks on one host sum in memory that they share: torch.distributed carries a group's first messages only."""

import os
import signal
import threading
import time

import pytest
import torch
import torch.distributed as dist

import syncbn
from syncbn.torch import SyncBatchNorm
from syncbn.torch._engine import GlooEngine

STEPS, SAMPLES = 4, 6


def batch(step):
    x = torch.randn(SAMPLES, 3, 5, generator=torch.Generator().manual_seed(step))
    return x, torch.randn(SAMPLES, 3, 5, generator=torch.Generator().manual_seed(100 + step))


def results(layer, share):
    found = []
    for step in range(STEPS):
        x, dy = (part[share].clone() for part in batch(step))
        x.requires_grad_()
        y = layer(x)
        y.backward(dy)
        found += [y.detach(), x.grad]
    return found, [value.clone() for value in layer.state_dict().values()]


def messages(rank, forbidden):
    """What the ranks compute, and the number of sums that torch.distributed has carried for it."""
    calls = []
    carried = GlooEngine.all_reduce_sum

    def counted(engine, array, timeout):
        calls.append(len(array))
        carried(engine, array, timeout)

    if rank == forbidden:
        os.environ["SYNCBN_SHARED_MEMORY"] = "0"
    GlooEngine.all_reduce_sum = counted
    try:
        group = dist.new_group([0, 1])
        return *results(SyncBatchNorm(3, process_group=group), [slice(0, 2), slice(2, SAMPLES)][rank]), len(calls)
    finally:
        GlooEngine.all_reduce_sum = carried
        os.environ.pop("SYNCBN_SHARED_MEMORY", None)


@pytest.mark.parametrize("forbidden", [None, 0, 1])
def test_one_host(two_ranks, forbidden):
    """The version, the table of the ranks and the verdict; without shared memory the first two and every sum."""
    expected, state = results(SyncBatchNorm(3), slice(0, SAMPLES))
    (first, first_state, first_calls), (second, second_state, second_calls) = two_ranks(messages, forbidden)
    for whole, *parts in zip(expected, first, second):
        assert torch.equal(torch.cat(parts), whole)
    for whole, *parts in zip(state, first_state, second_state):
        assert torch.equal(parts[0], whole) and torch.equal(parts[1], whole)
    assert first_calls == second_calls
    assert first_calls == 3 if forbidden is None else first_calls > 2 * STEPS


def not_called(rank):
    os.environ["SYNCBN_TIMEOUT_S"] = "2"
    try:
        layer = SyncBatchNorm(3, process_group=dist.new_group([0, 1, 2]))
        layer(torch.randn(2, 3))
    finally:
        os.environ["SYNCBN_TIMEOUT_S"] = "60"
    error = None
    if rank != 1:
        with pytest.raises(syncbn.TimeoutError) as caught:
            layer(torch.randn(2, 3))
        error = str(caught.value)
    dist.barrier()
    return error


def test_a_rank_that_stops_calling_is_named(three_ranks):
    first, _, third = three_ranks(not_called)
    for error in first, third:
        assert "no sum after 2 s" in error and "(waiting for rank 1)" in error


def interrupted_backward(rank):
    layer = SyncBatchNorm(3, process_group=dist.new_group([0, 1]))
    x = torch.randn(2, 3, requires_grad=True)
    y = layer(x)
    if rank == 1:
        dist.barrier()
        with pytest.raises(syncbn.PeerError, match="a sum was given up by rank 0"):
            y.sum().backward()  # has 66 words, so rank 0 has not brought the second message
        return None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        y.sum().backward()
    seconds = time.monotonic() - start
    with pytest.raises(syncbn.GroupError, match="broken"):
        layer(x)
    dist.barrier()
    return seconds


def test_ctrl_c_ends_a_backward(two_ranks):
    assert two_ranks(interrupted_backward)[0] < 30  # of the 60 of the deadline
