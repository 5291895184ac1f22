# SPDX-License-Identifier: Apache-2.0

"""Engines of the caller's own: any object with rank, size and all_reduce_sum(array, timeout)."""

import gc
import threading
import weakref

import data
import numpy as np
import pytest
import syncbn
from syncbn._framework_group import FrameworkGroup, fail_peers

X = data.linspace(0, 5, (2, 2, 2, 2))


class Board:
    """Where threads add up; an engine for each."""

    def __init__(self, size):
        self.size = size
        self.arrays = [None] * size
        self.meeting = threading.Barrier(size)

    def engines(self):
        return [Engine(self, rank) for rank in range(self.size)]


class Engine:
    def __init__(self, board, rank):
        self.board, self.rank, self.size = board, rank, board.size
        self.seen = []

    def all_reduce_sum(self, array, timeout):
        self.seen.append((array.dtype, array.flags.c_contiguous, array.flags.writeable, timeout))
        self.board.arrays[self.rank] = array.copy()
        self.board.meeting.wait(timeout)
        total = np.sum(self.board.arrays, axis=0)
        self.board.meeting.wait(timeout)
        array[...] = total


class Failing:
    rank, size = 0, 2

    def __init__(self, error):
        self.error = error

    def all_reduce_sum(self, array, timeout):
        raise self.error


def on_threads(engines, body):
    """What body(engine) returns for each, which run at the same time."""
    results = [None] * len(engines)

    def run(i):
        try:
            results[i] = body(engines[i])
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(engines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_bits():
    engines = Board(3).engines()

    def body(engine):
        bn = syncbn.SyncBatchNorm(2, process_group=engine)
        y = bn(X * (1 + engine.rank))
        return y, bn.backward(y), bn.running_var

    ranks = on_threads(engines, body)
    whole = syncbn.SyncBatchNorm(2)
    y = whole(np.concatenate([X, X * 2, X * 3]))
    assert data.same_bits(np.concatenate([rank[0] for rank in ranks]), y)
    assert data.same_bits(np.concatenate([rank[1] for rank in ranks]), whole.backward(y))
    assert all(data.same_bits(rank[2], whole.running_var) for rank in ranks)
    for dtype, contiguous, writeable, timeout in engines[0].seen:
        assert dtype == np.int64 and contiguous and writeable and isinstance(timeout, float) and 0 < timeout <= 300


def test_layers_of_one_engine_are_one_group():
    def body(engine):
        layers = [syncbn.SyncBatchNorm(2, process_group=engine) for _ in range(2)]
        layers[engine.rank](X)
        with pytest.raises(syncbn.MismatchError, match="rank 0 .*number 2 by construction.*rank 1 .*number 1 by construction"):
            layers[1 - engine.rank](X)
        return True

    assert on_threads(Board(2).engines(), body) == [True] * 2


def test_evaluation_and_a_group_of_one_do_not_call():
    class Alone(Failing):
        size = 1

    syncbn.SyncBatchNorm(2, process_group=Alone(OSError("asked")))(X)
    syncbn.SyncBatchNorm(2, process_group=Failing(OSError("asked"))).eval()(X)


@pytest.mark.parametrize("error, expected, text", [
    (OSError("cable"), syncbn.PeerError, "on rank 0: OSError: cable$"),
    (TimeoutError("late"), syncbn.TimeoutError, r"\(TimeoutError: late\)$"),
    (syncbn.TimeoutError("late"), syncbn.TimeoutError, r"\(late\)$"),
    (syncbn.PeerError("gone"), syncbn.PeerError, "on rank 0: gone$"),
])
def test_errors_have_their_cause(error, expected, text):
    bn = syncbn.SyncBatchNorm(2, process_group=Failing(error))
    with pytest.raises(expected, match=f"group 'Failing', call 1, forward of an unnamed layer.*{text}") as caught:
        bn(X)
    assert caught.value.__cause__ is error
    assert bn.num_batches_tracked == 0
    with pytest.raises(syncbn.GroupError, match="broken") as caught:
        bn(X)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("bad", [X[:, :1], X.astype(int), [1.0]], ids=["channels", "dtype", "list"])
def test_what_kept_the_peers_from_hearing_is_no_cause(bad):
    """An engine that fails while it tells of a wrong argument is the cause of neither that error nor the next."""
    bn = syncbn.SyncBatchNorm(2, process_group=Failing(OSError("cable")))
    with pytest.raises((TypeError, ValueError), match="^x: ") as caught:
        bn(bad)
    assert caught.value.__cause__ is None
    with pytest.raises(syncbn.GroupError) as caught:
        bn(X)
    assert caught.value.__cause__ is None
    with pytest.raises(ValueError) as caught:
        syncbn.SyncBatchNorm(0)
    assert caught.value.__cause__ is None


def test_timeout_error_is_the_built_in_one():
    with pytest.raises(TimeoutError):
        syncbn.SyncBatchNorm(2, process_group=Failing(TimeoutError()))(X)


def test_what_is_no_exception_passes():
    with pytest.raises(KeyboardInterrupt):
        syncbn.SyncBatchNorm(2, process_group=Failing(KeyboardInterrupt()))(X)


@pytest.mark.parametrize("attribute, value, error", [("rank", "0", TypeError), ("size", None, TypeError),
                                                     ("rank", 2, ValueError), ("size", 0, ValueError)])
def test_bad_engines(attribute, value, error):
    engine = Failing(OSError())
    setattr(engine, attribute, value)
    with pytest.raises(error):
        syncbn.SyncBatchNorm(2, process_group=engine)


def test_wrong_sum_is_noticed():
    class Forgetful(Failing):
        def all_reduce_sum(self, array, timeout):
            pass

    with pytest.raises(syncbn.PeerError, match="1 ranks.* 2"):
        syncbn.SyncBatchNorm(2, process_group=Forgetful(None))(X)


def test_engine_and_layer_are_given_back():
    engine = Failing(OSError)  # raises a new one each time
    bn = syncbn.SyncBatchNorm(2, process_group=engine)
    with pytest.raises(syncbn.PeerError):
        bn(X)
    seen = weakref.ref(engine)
    del bn, engine
    gc.collect()
    assert seen() is None


class Cable(OSError):
    """Of Python's own exceptions no weak reference can be had."""


def refused_array(engine):
    with pytest.raises(TypeError):
        syncbn.SyncBatchNorm(2, process_group=engine)([1.0])


def refused_tensor(engine):
    fail_peers(lambda _: FrameworkGroup("framework", engine), "", "bn", "no tensor")


@pytest.mark.parametrize("refused", [refused_array, refused_tensor])
def test_what_kept_the_peers_from_hearing_is_given_back(refused):
    class Raising(Failing):
        def all_reduce_sum(self, array, timeout):
            error = Cable()
            self.raised = weakref.ref(error)
            raise error

    engine = Raising(None)
    refused(engine)
    gc.collect()
    assert engine.raised() is None


def test_an_array_that_is_kept_stays():
    """An engine may hold the array of a request that it has given up."""
    kept = []

    class Keeping(Failing):
        def all_reduce_sum(self, array, timeout):
            kept.append(array)
            raise TimeoutError("late")

    for _ in range(20):
        with pytest.raises(TimeoutError):
            syncbn.SyncBatchNorm(2, process_group=Keeping(None))(X)
    gc.collect()
    for array in kept:
        array += 1
        assert array.shape[0] >= 3


def test_other_threads_run_while_an_engine_waits():
    """A rank that held the GIL in its call would never let the other come."""
    def body(engine):
        bn = syncbn.SyncBatchNorm(2, process_group=engine)
        for _ in range(30):
            bn.backward(bn(X))
        return bn.running_mean

    first, second = on_threads(Board(2).engines(), body)
    assert data.same_bits(first, second)
