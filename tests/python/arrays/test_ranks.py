# SPDX-License-Identifier: Apache-2.0

"""Ranks as threads: groups, whose error it is, what the peers hear."""

import copy
import pickle
import threading

import data
import numpy as np
import pytest
import syncbn

X = data.linspace(0, 5, (2, 2, 2, 2))


def failures(size, body):
    """What each rank raised, or None."""
    errors = [None] * size

    def rank_body(rank):
        try:
            body(rank)
        except Exception as error:
            errors[rank] = error
            raise

    with pytest.raises(Exception):
        syncbn.run_ranks(size, rank_body)
    return errors


def test_results_in_order():
    assert syncbn.run_ranks(3, lambda rank: (rank, syncbn.get_rank(), syncbn.get_group_size())) == [
        (0, 0, 3), (1, 1, 3), (2, 2, 3)]


def test_groups():
    def body(rank):
        ranks = [2, 0]
        if rank in ranks:
            syncbn.create_group("pair", ranks)
            assert syncbn.get_rank("pair") == ranks.index(rank) == syncbn.get_local_rank("pair")
            assert syncbn.get_group_size("pair") == 2 == syncbn.get_local_rank_size("pair")
            assert syncbn.get_world_rank_from_group_rank("pair", 0) == 2
            assert syncbn.get_group_rank_from_world_rank(0, "pair") == 1
        else:
            with pytest.raises(syncbn.GroupError, match="no member"):
                syncbn.create_group("pair", ranks)
            with pytest.raises(RuntimeError, match="pair"):
                syncbn.SyncBatchNorm(2, process_group="pair")
            with pytest.raises(syncbn.GroupError, match="not in the list"):
                syncbn.SyncBatchNorm(2, process_group=ranks)
            return None
        named, listed = syncbn.SyncBatchNorm(2, process_group="pair"), syncbn.SyncBatchNorm(2, process_group=ranks)
        x = X if rank == 0 else 2 * X
        assert data.same_bits(named(x), listed(x))
        syncbn.destroy_group("pair")
        with pytest.raises(syncbn.GroupError):
            syncbn.get_rank("pair")
        return named.running_mean

    first, none, third = syncbn.run_ranks(3, body)
    whole = syncbn.SyncBatchNorm(2)
    whole(np.concatenate([X, 2 * X]))
    assert none is None and data.same_bits(first, third) and data.same_bits(first, whole.running_mean)


@pytest.mark.parametrize("ranks, error", [([], ValueError), ([0, 0], ValueError), ([0, 5], ValueError), ([-1], ValueError)])
def test_bad_lists(ranks, error):
    def body(_):
        with pytest.raises(error, match="ranks"):
            syncbn.create_group("g", ranks)
        with pytest.raises(ValueError, match="world"):
            syncbn.destroy_group("world")

    syncbn.run_ranks(2, body)


def test_layer_of_another_rank():
    """A training call belongs on the thread of the rank that made the layer. Control: its own rank calls it before and
    after, on its thread and on a thread that it starts."""
    layers = [None, None]
    together = threading.Barrier(2, timeout=60)

    def body(rank):
        layer = layers[rank] = syncbn.SyncBatchNorm(2, name="bn")
        layer(X)
        together.wait()
        if rank == 1:
            for call in (lambda: layers[0](X), lambda: layers[0].backward(X)):
                with pytest.raises(syncbn.GroupError, match="'bn'.* rank 0, .* rank 1"):
                    call()
        together.wait()
        layer.backward(X)
        helper = threading.Thread(target=layer, args=(X,))
        helper.start()
        helper.join()
        return int(layer.num_batches_tracked)

    assert syncbn.run_ranks(2, body) == [2, 2]


def test_without_init():
    assert (syncbn.get_rank(), syncbn.get_group_size(), syncbn.is_initialized()) == (0, 1, False)
    for call in (syncbn.release, lambda: syncbn.create_group("g", [0]), lambda: syncbn.new_group([0]),
                 lambda: syncbn.get_rank("g")):
        with pytest.raises(syncbn.GroupError):
            call()


def test_all_reduce_sum():
    def body(rank):
        values = np.array([1e16, 1.0, -1e16, 0.5]) if rank == 1 else np.array([1.0, rank, 1e16, 0.25])
        syncbn.all_reduce_sum(values)
        with pytest.raises(ValueError, match="contiguous"):
            syncbn.all_reduce_sum(values[::2])
        return values

    for values in syncbn.run_ranks(3, body):
        np.testing.assert_array_equal(values, [1e16 + 2, 3, 1e16, 1.0])


def test_own_error_wins():
    """The caller sees the cause, the peers that they wait for a rank that has failed."""

    def body(rank):
        if rank == 1:
            raise KeyError("mine")
        syncbn.SyncBatchNorm(2)(X)

    errors = failures(3, body)
    assert isinstance(errors[0], syncbn.PeerError) and "rank 1" in str(errors[0]) and "mine" in str(errors[0])
    with pytest.raises(KeyError, match="mine"):
        syncbn.run_ranks(3, body)


@pytest.mark.parametrize("bad", [X.astype(int), X.ravel(), X[:, :1], [1.0], None],
                         ids=["dtype", "axes", "channels", "list", "None"])
def test_peers_hear_of_a_wrong_argument(bad):
    """At once, with the reason, and not only when the deadline has passed; what the rank itself raises is its own."""

    def body(rank):
        bn = syncbn.SyncBatchNorm(2)
        bn(X)
        state = bn.state_dict()
        try:
            bn(X if rank == 0 else bad)
        finally:
            assert all(data.same_bits(value, state[name]) for name, value in bn.state_dict().items())

    errors = failures(2, body)
    assert isinstance(errors[1], (TypeError, ValueError)) and str(errors[1]).startswith("x: ")
    assert isinstance(errors[0], syncbn.PeerError) and str(errors[1]) in str(errors[0])


def test_peers_hear_of_a_wrong_gradient():
    def body(rank):
        bn = syncbn.SyncBatchNorm(2)
        bn(X)
        bn.backward(X if rank == 0 else X.astype(int))

    errors = failures(2, body)
    assert isinstance(errors[1], TypeError) and isinstance(errors[0], syncbn.PeerError)
    assert str(errors[1]) in str(errors[0])


@pytest.mark.parametrize("bad", [X.astype(int), [1.0]], ids=["dtype", "list"])
def test_peers_hear_of_a_wrong_gradient_whatever_the_mode_has_become(bad):
    """They wait, or do not, by the forward that the gradient is of."""

    def body(rank):
        bn = syncbn.SyncBatchNorm(2)
        bn.eval()
        bn(X)
        bn.train()
        if rank == 1:
            with pytest.raises(TypeError):
                bn.backward(bad)  # of an evaluation: nobody waits, and the group stays whole
        bn(X)
        bn.eval()
        bn.backward(X if rank == 0 else bad)

    errors = failures(2, body)
    assert isinstance(errors[1], TypeError) and isinstance(errors[0], syncbn.PeerError)
    assert str(errors[1]) in str(errors[0])


@pytest.mark.parametrize("options, texts", [
    (lambda rank: {"eps": [1e-5, 1e-3][rank]}, ["eps=1e-05", "eps=0.001"]),
    (lambda rank: {"num_features": [2, 3][rank]}, ["C=2", "C=3"]),
    (lambda rank: {"name": ["a", "b"][rank]}, ["'a'", "'b'"])])
def test_different_calls_are_errors_on_every_rank(options, texts):
    def body(rank):
        own = {"num_features": 2, **options(rank)}
        syncbn.SyncBatchNorm(**own)(np.ones((2, own["num_features"], 2), np.float32))

    for error in failures(2, body):
        assert isinstance(error, syncbn.MismatchError)
        assert all(text in str(error) for text in texts)


def whole(x):
    """The running mean after one step on the ranks' batches together."""
    bn = syncbn.SyncBatchNorm(2)
    bn(x)
    return bn.running_mean


def test_a_rank_may_build_more():
    def body(rank):
        syncbn.create_group("both", [0, 1])
        for group in ("both", None):
            bn = syncbn.SyncBatchNorm(2, process_group=group)
            if rank == 0:  # a model to count parameters, a copy that averages, a checkpoint
                copy.deepcopy(bn).eval()(X)
                pickle.loads(pickle.dumps(bn))
                bn = syncbn.SyncBatchNorm(2, process_group=group)
            for _ in range(2):
                made_anew = syncbn.SyncBatchNorm(2, process_group=group)
                made_anew(X[rank:rank + 1])
                assert data.same_bits(made_anew.running_mean, whole(X))
            bn(X[rank:rank + 1])
            assert data.same_bits(bn.running_mean, whole(X))

    syncbn.run_ranks(2, body)


@pytest.mark.parametrize("name", ["", "bn1"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda bn: pickle.loads(pickle.dumps(bn))],
                         ids=["copy", "deepcopy", "pickle"])
def test_a_copy_in_another_order_is_a_mismatch(name, copied):
    def body(rank, swapped):
        student = syncbn.SyncBatchNorm(2, name=name)
        teacher = copied(student)
        first, second = (student, teacher) if swapped and rank == 1 else (teacher, student)
        first(X[rank:rank + 1] * 5)
        try:
            second(X[rank:rank + 1])
        finally:
            assert second.num_batches_tracked == (0 if swapped else 1)
        assert data.same_bits(student.running_mean, whole(X))  # control: in the same order they are two layers

    syncbn.run_ranks(2, lambda rank: body(rank, False))
    for error in failures(2, lambda rank: body(rank, True)):
        assert isinstance(error, syncbn.MismatchError)
        for text in ("call 2", "number 1 by construction", "number 2 by construction", "from call 1 on", "name="):
            assert text in str(error)


def test_broken_group():
    def body(rank):
        bn = syncbn.SyncBatchNorm(2)
        with pytest.raises((TypeError, syncbn.PeerError)):
            bn(X if rank == 0 else X.astype(int))
        with pytest.raises(syncbn.GroupError, match="broken"):
            bn(X)

    syncbn.run_ranks(2, body)


def test_empty_rank_and_whole_empty_group():
    def body(rank):
        bn = syncbn.SyncBatchNorm(2)
        y = bn(X[:0] if rank == 0 else X)
        dx = bn.backward(y)
        assert len(dx) == len(y) == (0 if rank == 0 else 2)
        if rank == 0:
            assert not bn.weight_grad.any()
        mean = bn.running_mean.copy()
        bn(X[:0])
        assert data.same_bits(bn.running_mean, mean) and bn.num_batches_tracked == 1
        return mean

    alone = syncbn.SyncBatchNorm(2)
    alone(X)
    assert all(data.same_bits(mean, alone.running_mean) for mean in syncbn.run_ranks(2, body))


def test_layers_in_parallel_threads_of_one_rank_each():
    """Four ranks make 50 steps each without the GIL: a rank that held it while waiting would stop the others."""
    def body(rank):
        bn = syncbn.SyncBatchNorm(2)
        for _ in range(50):
            bn.backward(bn(X + rank))
        return bn.running_var

    first, *others = syncbn.run_ranks(4, body)
    assert all(data.same_bits(first, other) for other in others)
