# SPDX-License-Identifier: Apache-2.0

"""How long a rank waits for its peers, and what each rank reads if one of them is late or dies."""

import os
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import syncbn
from processes import ENDED
from syncbn.torch import SyncBatchNorm, _attendance, _process_group

X = torch.arange(24.0).reshape(2, 4, 3)


def layer_of_a_group(rank, timeout_s, shared_memory, variable=None, ranks=(0, 1)):
    """A layer whose process group has this timeout. Without shared memory it sums over gloo's connections.

    `variable`: SYNCBN_TIMEOUT_S.
    """
    os.environ["SYNCBN_SHARED_MEMORY"] = str(int(shared_memory))
    if variable is None:
        os.environ.pop("SYNCBN_TIMEOUT_S", None)
    else:
        os.environ["SYNCBN_TIMEOUT_S"] = variable
    group = dist.new_group(list(ranks), timeout=timedelta(seconds=timeout_s))
    return SyncBatchNorm(4, process_group=group, name="bn")


def error_of(layer):
    try:
        layer(X)
    except syncbn.Error as error:
        return type(error).__name__, str(error), layer.num_batches_tracked.item(), repr(error.__cause__)
    finally:
        os.environ["SYNCBN_TIMEOUT_S"] = "60"
        os.environ.pop("SYNCBN_SHARED_MEMORY", None)
    return None


def late(rank, timeout_s, variable, connected, shared_memory):
    layer = layer_of_a_group(rank, timeout_s, shared_memory, variable)
    if connected:
        layer(X)
    error = error_of(layer) if rank == 1 else None
    dist.barrier()
    return error if rank == 1 else error_of(layer)


@pytest.mark.parametrize("connected, shared_memory", [(True, False), (True, True), (False, False)],
                         ids=["over connections", "in shared memory", "at its first call"])
@pytest.mark.parametrize("timeout_s, variable, limit", [
    (3, None, "3 s (the process group's timeout, else SYNCBN_TIMEOUT_S)"),
    (7200, "3", "3 s (SYNCBN_TIMEOUT_S)"),
], ids=["process group", "variable"])
def test_the_waiting_rank_names_the_limit_and_the_late_rank_is_told(two_ranks, timeout_s, variable, limit, connected,
                                                                    shared_memory):
    (name, message, counter, cause), (waiting_name, waiting_message, *_) = two_ranks(
        late, timeout_s, variable, connected, shared_memory)
    assert waiting_name == "TimeoutError"
    assert f"no sum after {limit}" in waiting_message and waiting_message.endswith("(waiting for rank 0)")
    assert name == "PeerError" and "on rank 0" in message
    assert message.endswith("a sum was given up by rank 1" if shared_memory else
                            "rank 1 gave a sum up after 3 s, waiting for rank 0"), message
    assert counter == connected and "gloo" not in cause


def limits(rank):
    """The limit of the calls in groups with and without a timeout of their own."""
    os.environ.pop("SYNCBN_TIMEOUT_S")
    seen = []
    make = _process_group.FrameworkGroup
    _process_group.FrameworkGroup = lambda *arguments: (seen.append(arguments[2]), make(*arguments))[1]
    try:
        for group in (None, dist.new_group([0, 1]), dist.new_group([0, 1], timeout=timedelta(seconds=77))):
            SyncBatchNorm(4, process_group=group)(X)
    finally:
        _process_group.FrameworkGroup = make
        os.environ["SYNCBN_TIMEOUT_S"] = "60"
    return seen


def test_a_process_group_without_a_timeout_has_torchs_default_and_not_the_worlds(two_ranks):
    assert two_ranks(limits) == [[60, 1800, 77]] * 2


def dying(rank, size, shared_memory):
    layer = layer_of_a_group(rank, 7200, shared_memory, ranks=range(size))
    layer(X)
    if rank == 1:
        os._exit(3)
    return error_of(layer)


@pytest.mark.parametrize("size, shared_memory", [(2, False), (3, False), (3, True)])
def test_the_rank_that_died_is_named_on_every_other(two_ranks, three_ranks, size, shared_memory):
    outcomes = (two_ranks if size == 2 else three_ranks).outcomes(dying, size, shared_memory)
    assert outcomes.pop(1) == (ENDED, None)
    for error, (name, message, counter, cause) in outcomes:
        assert error is None and name == "PeerError" and message.endswith(": connection closed by rank 1"), message
        assert counter == 1 and "gloo" not in cause


def dying_with_the_store(rank, port):
    dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    layer = layer_of_a_group(rank, 7200, False, ranks=range(3))
    layer(X)
    if rank == 0:
        os._exit(3)
    return error_of(layer)


def test_the_rank_that_died_with_the_store_is_named(three_ranks):
    port = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port  # free again
    outcomes = three_ranks.outcomes(dying_with_the_store, port)
    assert outcomes.pop(0) == (ENDED, None)
    for error, (name, message, *_) in outcomes:
        # A rank may see that a peer has ended after the death of rank 0.
        assert error is None and name == "PeerError" and "connection closed by rank" in message and "0" in message


class StoppedStore:
    """Answers nothing, as a TCPStore whose process is stopped."""

    def __init__(self):
        self.asked = 0
        self.resumed = threading.Event()

    def clone(self):
        return self

    def check(self, keys):
        self.asked += 1
        self.resumed.wait()

    set = get = compare_set = lambda self, *_: self.check([])


def test_a_store_that_does_not_answer_delays_nobody(monkeypatch):
    monkeypatch.setattr(_attendance, "_ANSWER_S", 0.05)
    store = StoppedStore()
    attendance = _attendance.Attendance(store, 0, 2)
    attendance.report_waiting(1)
    assert attendance.absent_from(1) == [] and attendance.end() is None and attendance.report_end("why") == "why"
    assert store.asked == 1
    store.resumed.set()


def test_ranks_tell_each_other_through_the_store():
    store = dist.HashStore()
    first, second, third = (_attendance.Attendance(store, rank, 3) for rank in range(3))
    first.report_waiting(7)
    third.report_waiting(6)
    assert second.absent_from(7) == [1, 2] and second.absent_from(6) == [1]
    assert third.end() is None
    assert first.report_end("the first reason") == "the first reason"
    assert second.report_end("another") == third.end() == "the first reason"


def results_of(layer, x):
    """The statistics, and of the first samples y and the gradient."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.pow(3).sum().backward()
    return y[:2], x.grad[:2], layer.running_mean, layer.running_var, layer.num_batches_tracked


def dry_run(rank, size, group):
    """True if the layer's results are those of a batch of which every rank of the group brings the same share."""
    alone = dist.new_group([rank])
    found = results_of(SyncBatchNorm(4, process_group=group), X)
    expected, control = (results_of(SyncBatchNorm(4, process_group=alone), torch.cat([X] * count)) for count in (size, 1))
    assert not torch.equal(found[3], control[3]), "this data does not tell the sizes apart"
    return all(torch.equal(*pair) for pair in zip(found, expected))


@pytest.mark.parametrize("backend", ["fake", "cuda:fake", "cpu:fake,cuda:fake"])
@pytest.mark.parametrize("ranks", [None, [0, 2, 5], [2, 1]], ids=["world", "three ranks", "two ranks"])
def test_the_fake_backend_is_a_dry_run(backend, ranks):
    dist.init_process_group(backend, rank=2, world_size=8, store=FakeStore())
    try:
        group = None if ranks is None else dist.new_group(ranks)
        assert dry_run(2, 8 if ranks is None else len(ranks), group)
        assert dist.new_group([0, 1]) is dist.GroupMember.NON_GROUP_MEMBER
    finally:
        dist.destroy_process_group()


def fake_on_cpu_only(rank):
    return dry_run(rank, 2, dist.new_group([0, 1], backend="cpu:fake,cuda:gloo"))


def test_the_backend_for_cpu_tensors_decides(two_ranks):
    assert two_ranks(fake_on_cpu_only) == [True, True]
