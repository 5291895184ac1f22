# SPDX-License-Identifier: Apache-2.0

"""Parameters and buffers: live views, state dicts, copies, text."""

import copy
import gc
import pickle

import data
import ml_dtypes
import numpy as np
import pytest
import syncbn

X = data.linspace(0, 5, (2, 2, 2, 2))


def test_documented_numbers():
    bn = syncbn.SyncBatchNorm(2)
    y = bn(X)
    dx = bn.backward(data.upstream(X.shape))
    np.testing.assert_allclose(y.ravel()[[0, 1, -1]], [-1.3242409, -1.0834699, 1.3242409], rtol=5e-8)
    np.testing.assert_allclose(dx.ravel()[:4], [-0.43901431, 0.20511368, -0.14393901, 0.50018898], rtol=1e-7)
    np.testing.assert_allclose(bn.weight_grad, [-0.55678317, 0.60192762], rtol=1e-7)
    np.testing.assert_array_equal(bn.bias_grad, [-0.875, 1])


def test_documented_example():
    """Evaluation of a new layer: input / sqrt(1 + 1e-5)."""
    bn = syncbn.SyncBatchNorm(num_features=2, dtype=np.float32)
    bn.set_train(False)
    np.testing.assert_allclose(bn(X), X / np.sqrt(1 + 1e-5), rtol=2e-7)


def test_first_values():
    bn = syncbn.SyncBatchNorm(3)
    assert bn.training
    for name, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
        entry = getattr(bn, name)
        assert entry.shape == (3,) and entry.dtype == np.float32 and np.all(entry == value)
    assert bn.num_batches_tracked.shape == () and bn.num_batches_tracked.dtype == np.int64
    assert list(bn.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_absent_values():
    bare = syncbn.SyncBatchNorm(2, affine=False, track_running_stats=False)
    assert bare.state_dict() == {}
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "weight_grad", "bias_grad"):
        assert getattr(bare, name) is None
    assert data.same_bits(bare.eval()(X), bare.train()(X))


@pytest.mark.parametrize("dtype", data.DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_views_are_live(dtype):
    bn = syncbn.SyncBatchNorm(2, dtype=dtype)
    assert bn.weight.dtype == dtype
    bn.weight[...] = [2, 0.5]
    bn.bias[...] = [1, -1]
    plain = syncbn.SyncBatchNorm(2)(X)
    np.testing.assert_allclose(bn(X), plain * np.reshape([2, 0.5], (2, 1, 1)) + np.reshape([1, -1], (2, 1, 1)), rtol=1e-6)
    assert bn.num_batches_tracked == 1
    bn.num_batches_tracked[...] = 7
    bn(X)
    assert bn.num_batches_tracked == 8


def test_views_outlive_the_layer():
    bn = syncbn.SyncBatchNorm(2000)
    weight, counter = bn.weight, bn.num_batches_tracked
    weight[...] = 3
    del bn
    gc.collect()
    np.full(2000, 7, np.float32)
    assert np.all(weight == 3) and counter == 0


def test_reset():
    bn = syncbn.SyncBatchNorm(2)
    bn(X)
    bn.weight[...] = 5
    bn.reset_running_stats()
    assert np.all(bn.running_mean == 0) and np.all(bn.running_var == 1) and bn.num_batches_tracked == 0
    assert np.all(bn.weight == 5)
    bn.reset_parameters()
    assert np.all(bn.weight == 1)


def test_save_and_load_in_the_middle():
    batches = [data.heavy_tailed(seed, (4, 2, 3), np.float32) for seed in range(6)]
    straight, before, after = (syncbn.SyncBatchNorm(2, momentum=None) for _ in range(3))
    for i, batch in enumerate(batches):
        straight(batch)
        (before if i < 3 else after)(batch)
        if i == 2:
            after.load_state_dict(before.state_dict())
    for name, value in straight.state_dict().items():
        assert data.same_bits(after.state_dict()[name], value)


def test_state_dict_holds_copies():
    bn = syncbn.SyncBatchNorm(2)
    state = bn.state_dict()
    bn.weight[...] = 4
    assert np.all(state["weight"] == 1)


@pytest.mark.parametrize("change, match", [
    (lambda state: state.pop("bias"), "expected weight, bias"), (lambda state: state.update(extra=1), "extra"),
    (lambda state: state.update(bias=np.zeros(3)), r"bias: shape \(3,\), expected \(2,\)"),
    (lambda state: state.update(num_batches_tracked=-1), "num_batches_tracked: -1"),
    (lambda state: state.update(num_batches_tracked=np.uint64(2**63)), "num_batches_tracked: 9223372036854775808"),
    (lambda state: state.update(running_var=np.array([1, 1e39])), r"running_var: \[1.e\+00 1.e\+39\], .* the range of float32"),
    (lambda state: state.update(bias=["a", "b"]), None), (lambda state: state.update(bias=np.zeros(2, complex)), None),
    (lambda state: state.update(bias=[None, 1.0]), None), (lambda state: state.update(num_batches_tracked=2.5), "num_batches_tracked: 2.5"),
    (lambda state: state.update(num_batches_tracked=np.nan), "num_batches_tracked: nan")])
def test_bad_state_changes_nothing(change, match):
    bn = syncbn.SyncBatchNorm(2)
    state = {name: value + 1 for name, value in bn.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=match) if match else pytest.raises(TypeError, match="expected real"):
        bn.load_state_dict(state)
    assert np.all(bn.weight == 1) and bn.num_batches_tracked == 0


def test_load_converts():
    bn = syncbn.SyncBatchNorm(2, dtype=ml_dtypes.bfloat16)
    bn.load_state_dict({name: value.astype(np.float64) for name, value in syncbn.SyncBatchNorm(2).state_dict().items()})
    assert bn.weight.dtype == ml_dtypes.bfloat16
    bn.load_state_dict({"weight": [1, 2], "bias": np.array([True, False]), "running_mean": np.ones(2, np.longdouble),
                        "running_var": np.array([np.inf, np.nan]), "num_batches_tracked": np.int8(3)})
    assert bn.weight[1] == 2 and bn.bias[0] == 1 and np.isinf(bn.running_var[0]) and bn.num_batches_tracked == 3
    syncbn.SyncBatchNorm(2).load_state_dict(bn.state_dict())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda bn: pickle.loads(pickle.dumps(bn))],
                         ids=["copy", "deepcopy", "pickle"])
def test_copies(copied):
    bn = syncbn.SyncBatchNorm(2, momentum=0.3, activation="relu", dtype=np.float64, channels_last=True, name="bn")
    bn(X)
    bn.set_train(False)
    other = copied(bn)
    assert repr(other) == repr(bn) and other.name == "bn" and not other.training
    for name, value in bn.state_dict().items():
        assert data.same_bits(other.state_dict()[name], value)
    other.weight[...] = 9
    assert np.all(bn.weight == 1)


class Engine:
    rank, size = 0, 1

    def all_reduce_sum(self, array, timeout):
        """Of a group of one: is never called."""

    def __reduce__(self):
        raise TypeError("an engine has connections")


class Named(syncbn.SyncBatchNorm):
    """A user's own, with another __init__, attributes and a narrower state."""

    def __init__(self, channels, label, **options):
        super().__init__(channels, eps=1e-3, **options)
        self.label, self.history = label, [channels]

    def state_dict(self):
        return {"weight": self.weight.copy()}

    def load_state_dict(self, state):
        raise NotImplementedError


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda bn: pickle.loads(pickle.dumps(bn))],
                         ids=["copy", "deepcopy", "pickle"])
def test_copies_of_subclasses(copied):
    bn = Named(2, label="stem", activation="relu")
    bn.itself = bn
    bn(X)
    other = copied(bn)
    assert type(other) is Named and other.label == "stem" and other.history == [2] and repr(other) == repr(bn)
    assert (other.history is bn.history) == (other.itself is bn) == (copied is copy.copy)
    for name in ("weight", "running_mean", "num_batches_tracked"):
        assert data.same_bits(getattr(other, name), getattr(bn, name))
    other(X)
    assert other.num_batches_tracked == 2 and bn.num_batches_tracked == 1
    assert other.backward(X).shape == X.shape


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_share_the_engine(copied):
    bn = syncbn.SyncBatchNorm(2, process_group=Engine())
    assert copied(bn).process_group is bn.process_group


def test_repr():
    assert repr(syncbn.SyncBatchNorm(2)) == (
        "SyncBatchNorm(\n  num_features=2, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True\n)")
    assert "activation='relu'" in repr(syncbn.SyncBatchNorm(2, activation="relu"))


def test_modes():
    bn = syncbn.SyncBatchNorm(2)
    assert bn.eval() is bn and not bn.training
    assert bn.train() is bn and bn.training
    bn.set_train(False)
    before = bn.state_dict()
    bn(X)
    assert all(data.same_bits(value, before[name]) for name, value in bn.state_dict().items())
