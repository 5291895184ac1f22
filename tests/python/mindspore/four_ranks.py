# SPDX-License-Identifier: Apache-2.0

"""Runs on each of four ranks: numbers, groups and errors."""

import os
import resource
import signal
import threading
import time

import cases
import mindspore
import numpy as np
import pytest
from mindspore import Tensor, ops
from mindspore.communication import create_group, destroy_group
from worker import RANK, SIZE, barrier, group_of, layer, step

import syncbn
from syncbn.mindspore import SyncBatchNorm

PAIRS = group_of([0, 1]) if RANK < 2 else group_of([2, 3])
FIRST_THREE = group_of([0, 1, 2])
OWN = group_of([RANK])
IN_PAIR = RANK % 2


def near(expected, found):
    np.testing.assert_allclose(np.ravel(found).astype(float), expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))


def run(case, rank, group):
    made = SyncBatchNorm(case.ranks[0].x.shape[1], process_group=group, momentum=case.momentum)
    made.set_train(case.training)
    if case.weight:
        made.weight.set_data(Tensor(case.weight, mindspore.float32))
        made.bias.set_data(Tensor(case.bias, mindspore.float32))
    for batch in case.earlier:
        made(Tensor(batch[rank]))
    share = case.ranks[rank]
    y, dx, weight_grad, bias_grad = step(made, share.x, cases.dy(share.x.shape))
    near(share.y, y.ravel()[[0, 1, -1]])
    near(share.dx, dx.ravel()[:4])
    near(share.weight_grad, weight_grad)
    near(share.bias_grad, bias_grad)
    statistics(case, made, len(case.earlier) + 1)


def statistics(case, made, steps):
    if case.training:
        near(case.running_mean, made.running_mean.asnumpy())
        near(case.running_var, made.running_var.asnumpy())
        assert made.num_batches_tracked.asnumpy() == steps
    else:
        assert made.running_mean.asnumpy().tolist() == case.running_mean
        assert made.running_var.asnumpy().tolist() == case.running_var
        assert made.num_batches_tracked.asnumpy() == 0


@pytest.mark.parametrize("name", "EFGHM")
def test_conformance_on_two_ranks(name):
    run(getattr(cases, name), IN_PAIR, PAIRS)


def test_conformance_a():
    run(cases.A, 0, None)


def test_conformance_b_and_c_at_the_same_time():
    run(cases.B if RANK < 2 else cases.C, IN_PAIR, PAIRS)


def test_conformance_d_on_three_ranks():
    if RANK < 3:
        run(cases.D, RANK, FIRST_THREE)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_an_empty_rank_changes_nothing(order):
    """Case E on two of three ranks, the third brings no samples."""
    if RANK == 3:
        return
    made = layer(3, process_group=FIRST_THREE)
    at = order.index(RANK)
    if at < 2:
        share = cases.E.ranks[at]
        y, dx, weight_grad, bias_grad = step(made, share.x, cases.dy(share.x.shape))
        near(share.y, y.ravel()[[0, 1, -1]])
        near(share.dx, dx.ravel()[:4])
        near(share.weight_grad, weight_grad)
    else:
        nothing = np.zeros((0, 3, 2, 2), np.float32)
        y, dx, weight_grad, bias_grad = step(made, nothing, nothing)
        assert y.shape == dx.shape == (0, 3, 2, 2)
        assert not weight_grad.any() and not bias_grad.any()
    statistics(cases.E, made, 1)


def test_control_local_statistics_miss_the_numbers():
    with pytest.raises(AssertionError):
        run(cases.E, IN_PAIR, OWN)


def test_two_calls_before_the_backward_pass():
    made = layer(2, process_group=PAIRS)
    a, b = (Tensor(cases.x(0, 5 + k + IN_PAIR, (2, 2, 2, 2))) for k in (0, 1))
    both = mindspore.grad(lambda a, b: (made(a) * made(b) * 2).sum(), (0, 1))(a, b)
    ones = np.ones(a.shape, np.float32)
    plain = layer(2, process_group=PAIRS)
    ya, yb = plain(a), plain(b)
    np.testing.assert_allclose(both[0].asnumpy(), step(plain, a, yb * Tensor(ones) * 2)[1], atol=1e-6)
    np.testing.assert_allclose(both[1].asnumpy(), step(plain, b, ya * Tensor(ones) * 2)[1], atol=1e-6)
    assert made.num_batches_tracked.asnumpy() == 2


def test_different_layers_are_named_on_every_rank():
    made = layer(2, process_group=group_of([0, 1, 2, 3], "mismatch"), eps=1e-3 if RANK == 2 else 1e-5)
    with pytest.raises(syncbn.MismatchError, match=r"rank 2 .*eps=0.001.*ranks 0-1, 3 .*eps=1e-05"):
        made(Tensor(cases.x(0, 5, (2, 2, 2, 2))))
    assert made.num_batches_tracked.asnumpy() == 0
    with pytest.raises(syncbn.GroupError, match="broken"):
        made(Tensor(cases.x(0, 5, (2, 2, 2, 2))))


@pytest.mark.parametrize("bad, error, text", [
    (np.ones((2, 3), np.float32), ValueError, r"shape \(2, 3\), expected C = num_features = 2"),
    (np.ones(4, np.float32), ValueError, r"shape \(4,\), expected at least two dimensions"),
    (np.ones((2, 2), np.int32), TypeError, "dtype mindspore.int32, expected one of mindspore.float16"),
], ids=["channels", "dimensions", "dtype"])
def test_a_wrong_argument_on_one_rank_is_known_to_all(bad, error, text):
    made = layer(2, process_group=group_of([0, 1, 2, 3], f"argument {text}"))
    mean = made.running_mean.asnumpy().copy()
    if RANK == 1:
        with pytest.raises(error, match=text):
            made(Tensor(bad))
    else:
        with pytest.raises(syncbn.PeerError, match=f"rank 1 .*{text}"):
            made(Tensor(cases.x(0, 5, (2, 2, 2, 2))))
    assert made.num_batches_tracked.asnumpy() == 0
    assert (made.running_mean.asnumpy() == mean).all()


def test_a_wrong_setting_on_one_rank_is_known_to_all():
    """Also where the layer that fails can't say it itself."""
    made = layer(2, process_group=group_of([0, 1, 2, 3], "setting"))
    x = Tensor(cases.x(0, 5, (2, 2, 2, 2)))
    if RANK == 1:
        made.momentum = 2.0
        with pytest.raises(ValueError, match="momentum: 2"):
            made(x)
    else:
        with pytest.raises(syncbn.PeerError, match="rank 1 .*momentum: 2"):
            made(x)
    assert made.num_batches_tracked.asnumpy() == 0


def large():
    """Of 128 MB, which are zero pages as long as nobody writes to them."""
    return Tensor.from_numpy(np.zeros((2, 2, 1 << 23), np.float32))


def no_more_memory(*_):
    """64 MB for what comes."""
    with open("/proc/self/statm") as sizes:
        used = int(sizes.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))


def memory_in_forward(made, x):
    no_more_memory()
    made(x)


def memory_in_backward(made, x):
    def loss(x):
        y = made(x)
        y.register_hook(no_more_memory)  # runs before the layer's backward
        return y.sum()

    mindspore.grad(loss)(x)


def operator(made, _):
    """The operator's error comes when its result is asked for."""
    made(ops.cholesky(Tensor(-np.eye(2, dtype=np.float32))))


def another_operator(made, _):
    """Of no result that the layer sees, but still under way."""
    failed = ops.cholesky(Tensor(-np.eye(2, dtype=np.float32)))
    made(Tensor(np.eye(2, dtype=np.float32)))
    del failed


@pytest.mark.parametrize("call, error, text", [
    (memory_in_forward, MemoryError, "Unable to allocate"), (memory_in_backward, MemoryError, "Unable to allocate"),
    (operator, RuntimeError, "positive definite"), (another_operator, RuntimeError, "positive definite"),
])
def test_a_failure_between_the_checks_and_the_sum_is_known_to_all(call, error, text):
    made = layer(2, process_group=group_of([0, 1, 2, 3], call.__name__))
    x = large() if RANK == 1 and call in (memory_in_forward, memory_in_backward) else Tensor(np.eye(2, dtype=np.float32))
    if RANK == 1:
        try:
            with pytest.raises(error, match=text):
                call(made, x)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        direction = "backward" if call is memory_in_backward else "forward"
        with pytest.raises(syncbn.GroupError, match=rf"broken since call \d+ \({direction} of "):
            made(Tensor(np.eye(2, dtype=np.float32)))
    else:
        with pytest.raises(syncbn.PeerError, match=f"rank 1 .*{error.__name__}: .*{text}"):
            mindspore.grad(lambda x: made(x).sum())(x)
    assert made.num_batches_tracked.asnumpy() == (call is memory_in_backward)


def test_one_value_a_channel_is_an_error_on_every_rank():
    made = layer(2, process_group=PAIRS)
    with pytest.raises(ValueError, match="1 element per channel over the whole group"):
        made(Tensor(np.ones((1 - IN_PAIR, 2), np.float32)))
    one_each = np.array([[1, 2]], np.float32) * (IN_PAIR + 1)
    y, *_ = step(made, one_each, one_each)  # the group goes on
    np.testing.assert_allclose(y, [[2 * IN_PAIR - 1] * 2], atol=1e-4)


def test_an_empty_group_updates_nothing():
    made = layer(2, process_group=PAIRS)
    nothing = np.zeros((0, 2, 3), np.float32)
    _, dx, weight_grad, bias_grad = step(made, nothing, nothing)
    assert dx.shape == (0, 2, 3) and not weight_grad.any() and not bias_grad.any()
    assert made.num_batches_tracked.asnumpy() == 0 and made.running_var.asnumpy().tolist() == [1, 1]


def test_groups():
    made = SyncBatchNorm(2)
    assert (made.process_group, made.world_size) == ("mccl_world_group", SIZE)
    for world in ("", "hccl_world_group", "mccl_world_group"):
        assert SyncBatchNorm(2, process_group=world).process_group == "mccl_world_group"
    assert SyncBatchNorm(2, process_group=PAIRS).world_size == 2
    with pytest.raises(syncbn.GroupError, match=f"'nope'.* rank {RANK}"):
        SyncBatchNorm(2, process_group="nope")
    if RANK == 3:
        with pytest.raises(syncbn.GroupError, match="'0-1-2'.* rank 3"):
            SyncBatchNorm(2, process_group="0-1-2")


def test_a_destroyed_group_is_not_used():
    """Nor the old one where MindSpore gives its name to other ranks."""
    x = Tensor(np.eye(2, dtype=np.float32))
    if RANK < 2:
        group_of([0, 1], "destroyed")
        made = layer(2, process_group="destroyed")
        made(x)
        destroy_group("destroyed")

        def check():
            with pytest.raises(syncbn.GroupError, match=f"'destroyed'.* rank {RANK}"):
                made(x)
            with pytest.raises(syncbn.GroupError, match="'destroyed'"):
                SyncBatchNorm(2, process_group="destroyed")

        check()
    barrier()
    if RANK in (0, 2):
        create_group("destroyed", [0, 2])
    if RANK == 2:
        assert SyncBatchNorm(2, process_group="destroyed").world_size == 2
    if RANK < 2:
        check()  # MindSpore makes no group of a name that a rank has destroyed
        assert made.num_batches_tracked.asnumpy() == 1
        made.set_train(False)
        made(x)


def test_evaluation_sends_nothing():
    """Each rank alone and a different number of times."""
    made = SyncBatchNorm(2)
    for _ in range(RANK + 1):
        step(made, cases.x(0, 5, (2, 2, 2, 2)), cases.dy((2, 2, 2, 2)))


def test_a_peer_that_stops_calling():
    """In shared memory a wait ends at this package's deadline, or by Ctrl-C, and the rank is named."""
    os.environ["SYNCBN_TIMEOUT_S"] = "2"
    try:
        made = layer(2, process_group=group_of([0, 1, 2, 3], "stops"))
        made(Tensor(cases.x(0, 5, (2, 2, 2, 2))))
    finally:
        del os.environ["SYNCBN_TIMEOUT_S"]
    start = time.monotonic()
    if RANK == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what a launcher starts may ignore it
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            made(Tensor(cases.x(0, 5, (2, 2, 2, 2))))
    elif RANK != 3:
        with pytest.raises((syncbn.TimeoutError, syncbn.PeerError), match="no sum after 2 s.*rank 3|given up by rank 0"):
            made(Tensor(cases.x(0, 5, (2, 2, 2, 2))))
    assert time.monotonic() - start < 20  # of MindSpore's 30
    assert made.num_batches_tracked.asnumpy() == 1
    barrier()


def test_a_peer_that_never_calls():
    """MindSpore's 30 seconds, in the messages by which the ranks find out about shared memory."""
    group = group_of([0, 1, 2, 3], "late")
    made = layer(2, process_group=group)
    barrier()
    if RANK != 3:
        text = "'late', call 1, forward of an unnamed layer.*no sum.*the 30 s that it always waits"
        with pytest.raises(syncbn.TimeoutError, match=text) as caught:
            made(Tensor(cases.x(0, 5, (2, 2, 2, 2))))
        assert isinstance(caught.value, TimeoutError)
        assert made.num_batches_tracked.asnumpy() == 0
