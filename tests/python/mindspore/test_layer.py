# SPDX-License-Identifier: Apache-2.0

"""The Cell in one process: what users of MindSpore's own layer rely on, checks, and what MindSpore does to parameters."""

import copy
import pickle
import subprocess
import sys

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, mint, nn, ops

import syncbn
from syncbn.mindspore import SyncBatchNorm

mindspore.set_context(mode=mindspore.PYNATIVE_MODE, device_target="CPU")
X = Tensor(np.random.default_rng(0).standard_normal((4, 3, 2, 5)).astype(np.float32) * 3 + 1)


def trained(layer):
    layer.set_train()
    return layer


def test_parameters_are_those_of_mindspores_layer():
    for arguments in ({}, {"affine": False}, {"track_running_stats": False}, {"dtype": mindspore.float16}):
        ours, theirs = SyncBatchNorm(3, **arguments), mint.nn.SyncBatchNorm(3, **arguments)
        for a, b in zip(ours.get_parameters(), theirs.get_parameters(), strict=True):
            assert (a.name, a.shape, a.dtype, a.requires_grad) == (b.name, b.shape, b.dtype, b.requires_grad)
            assert (a.asnumpy() == b.asnumpy()).all()
        assert [p.name for p in ours.trainable_params()] == [p.name for p in theirs.trainable_params()]
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
        for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "process_group", "world_size",
                     "dtype", "training"):
            assert getattr(ours, name) == getattr(theirs, name), name


def test_signature_is_that_of_mindspores_layer():
    import inspect
    ours, theirs = (inspect.signature(cls.__init__).parameters for cls in (SyncBatchNorm, mint.nn.SyncBatchNorm))
    assert [(p.name, p.default) for p in ours.values() if p.kind is not p.KEYWORD_ONLY] == [
        (p.name, p.default) for p in theirs.values()]


def test_names_in_a_net_and_repr():
    net = nn.SequentialCell(SyncBatchNorm(2), nn.ReLU())
    assert [p.name for p in net.get_parameters()][:2] == ["0.weight", "0.bias"]
    assert repr(SyncBatchNorm(2)) == ("SyncBatchNorm(\n  num_features=2, eps=1e-05, momentum=0.1, affine=True, "
                                      "track_running_stats=True\n)")


def test_evaluation_is_that_of_mindspores_layer():
    ours, theirs = SyncBatchNorm(3), mint.nn.SyncBatchNorm(3)
    for layer in (ours, theirs):
        layer.running_mean.set_data(Tensor([1, -2, 0.5], mindspore.float32))
        layer.running_var.set_data(Tensor([4, 0.25, 1], mindspore.float32))
        layer.weight.set_data(Tensor([1, 2, -3], mindspore.float32))
        layer.bias.set_data(Tensor([0, 1, 2], mindspore.float32))
    for x in (X, X.astype(mindspore.float16), X[:, :, 0], X[:, :, 0, 0], Tensor(np.zeros((0, 3), np.float32))):
        y, expected = ours(x), theirs(x) if x.size else x
        assert y.dtype == expected.dtype and y.shape == expected.shape
        np.testing.assert_allclose(y.asnumpy(), expected.asnumpy(), atol=1e-2 if x.dtype == mindspore.float16 else 1e-6)
    assert ours.to_float(mindspore.float16)(X).dtype == theirs.to_float(mindspore.float16)(X).dtype == mindspore.float16


@pytest.mark.parametrize("arguments, error", [
    ({"num_features": 0}, ValueError), ({"num_features": -1}, ValueError), ({"num_features": 2.0}, TypeError),
    ({"num_features": "2"}, TypeError), ({"num_features": True}, TypeError), ({"num_features": None}, TypeError),
    ({"eps": 1}, TypeError), ({"eps": "x"}, TypeError), ({"eps": -0.5}, ValueError), ({"eps": float("nan")}, ValueError),
    ({"eps": float("inf")}, ValueError), ({"momentum": 1.5}, ValueError), ({"momentum": -0.1}, ValueError),
    ({"momentum": "a"}, TypeError), ({"momentum": True}, TypeError), ({"process_group": [0, 1]}, TypeError),
    ({"process_group": 5}, TypeError), ({"process_group": "nope"}, syncbn.GroupError), ({"dtype": "float32"}, TypeError),
    ({"dtype": mindspore.int32}, TypeError), ({"dtype": np.float32}, TypeError),
], ids=str)
def test_wrong_arguments(arguments, error):
    (name, value), = arguments.items()
    with pytest.raises(error, match=f"^{name}: ") as caught:
        SyncBatchNorm(**{"num_features": 2, **arguments})
    assert (repr(value) if name == "dtype" else str(value)) in str(caught.value)


def test_allowed_arguments():
    for arguments in ({"momentum": 1}, {"momentum": 0}, {"momentum": None}, {"eps": 0.0}, {"process_group": ""}):
        trained(SyncBatchNorm(3, **arguments))(X)
    SyncBatchNorm(np.int64(3))


@pytest.mark.parametrize("x, error, text", [
    (X.asnumpy(), TypeError, "ndarray, expected a Tensor"), (X.astype(mindspore.int32), TypeError, "dtype mindspore.int32"),
    (Tensor(1.0), ValueError, r"shape \(\)"), (X[0, :, 0, 0], ValueError, r"shape \(3,\)"),
    (X[:, :2], ValueError, r"shape \(4, 2, 2, 5\), expected C = num_features = 3"),
], ids=["ndarray", "dtype", "0d", "1d", "channels"])
@pytest.mark.parametrize("training", [True, False])
def test_wrong_input(x, error, text, training):
    layer = SyncBatchNorm(3)
    layer.set_train(training)
    with pytest.raises(error, match=text):
        layer(x)
    assert layer.num_batches_tracked.asnumpy() == 0
    layer(X)


def test_one_value_a_channel():
    layer = trained(SyncBatchNorm(3))
    with pytest.raises(ValueError, match="1 element per channel"):
        layer(X[:1, :, 0, 0])
    assert (layer.running_var.asnumpy() == 1).all()


def test_any_number_of_dimensions():
    flat = X.asnumpy().reshape(4, 3, -1)
    expected = trained(SyncBatchNorm(3))(Tensor(flat)).asnumpy()
    for shape in ((4, 3, 10), (4, 3, 2, 5), (4, 3, 2, 5, 1), (4, 3, 1, 2, 1, 5)):
        y = trained(SyncBatchNorm(3))(Tensor(flat.reshape(shape)))
        assert y.shape == shape and (y.asnumpy().reshape(flat.shape) == expected).all()


def test_without_running_statistics_the_batch_serves_in_both_modes():
    layer = SyncBatchNorm(3, track_running_stats=False)
    y = layer(X).asnumpy()
    assert (trained(layer)(X).asnumpy() == y).all()
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    layer.set_train(False)
    assert (layer(X[:1, :, :1, :1]).asnumpy() == 0).all()  # one value: its variance is 0


def gradients(layer, x=X):
    weights = Tensor(np.random.default_rng(1).standard_normal(x.shape).astype(np.float32))
    return mindspore.grad(lambda x: (layer(x) * weights).sum(), 0, layer.trainable_params())(x)


def test_frozen_parameters_and_an_input_without_gradient():
    layer = trained(SyncBatchNorm(3))
    dx, (weight, bias) = gradients(layer)
    layer.weight.requires_grad = False
    frozen_dx, (frozen_bias,) = gradients(layer)
    assert (frozen_dx.asnumpy() == dx.asnumpy()).all() and (frozen_bias.asnumpy() == bias.asnumpy()).all()
    layer.weight.requires_grad = True
    weights = Tensor(np.random.default_rng(1).standard_normal(X.shape).astype(np.float32))
    of_parameters = mindspore.grad(lambda x: (layer(x) * weights).sum(), None, layer.trainable_params())(X)
    assert (of_parameters[0].asnumpy() == weight.asnumpy()).all()
    assert gradients(trained(SyncBatchNorm(3, affine=False)), X.transpose(0, 1, 3, 2))


def test_strided_input_and_gradient():
    layer = trained(SyncBatchNorm(3))
    x = Tensor(np.ascontiguousarray(X.asnumpy().transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    assert not x.is_contiguous()
    assert (layer(x).asnumpy() == layer(X).asnumpy()).all()
    dense, strided = (mindspore.grad(f)(X).asnumpy() for f in (
        lambda x: (layer(x) * X).sum(), lambda x: (layer(x).transpose(0, 2, 3, 1) * X.transpose(0, 2, 3, 1)).sum()))
    np.testing.assert_allclose(dense, strided, atol=1e-7)


def test_reset():
    layer = trained(SyncBatchNorm(3))
    layer(X)
    layer.weight.set_data(Tensor([2, 2, 2], mindspore.float32))
    layer.reset_running_stats()
    assert [p.asnumpy().tolist() for p in layer.get_parameters()] == [[2] * 3, [0] * 3, [0] * 3, [1] * 3, 0]
    layer.reset_parameters()
    assert layer.weight.asnumpy().tolist() == [1] * 3


def test_storage_may_be_replaced_at_any_time():
    """Each way gives the statistics of a layer that had these values from the start."""
    for replace in (lambda p, t: p.set_data(t), lambda p, t: p.copy_(t), ops.assign,
                    lambda p, t: p.set_data(ops.concat((t, t)).reshape(2, 3).transpose(1, 0)[:, 0])):
        layer, fresh = (trained(SyncBatchNorm(3)) for _ in range(2))
        layer(X)
        replace(layer.running_mean, Tensor([1, 2, 3], mindspore.float32))
        layer.running_var = Tensor([2, 2, 2], mindspore.float32)
        fresh.running_mean.asnumpy()[:] = [1, 2, 3]
        fresh.running_var.asnumpy()[:] = 2
        layer(X), fresh(X)
        for name in ("running_mean", "running_var"):
            assert (getattr(layer, name).asnumpy() == getattr(fresh, name).asnumpy()).all()


def test_what_is_under_way_is_waited_for():
    """Operators run behind the program's back: those that read a buffer first, those that make the input."""
    layer = trained(SyncBatchNorm(3))
    large = Tensor(np.random.default_rng(0).random((600, 600)).astype(np.float32) / 300)
    for _ in range(3):
        before = layer.running_mean.asnumpy().copy()
        slow = large
        for _ in range(6):
            slow = slow @ large
        read_late = layer.running_mean + slow[0, :3] * 0
        x = X + slow[0, 0] * 0
        y = layer(x)
        assert (read_late.asnumpy() == before).all()
        assert (y.asnumpy() == trained(SyncBatchNorm(3))(X).asnumpy()).all()


def test_copies():
    layer = trained(SyncBatchNorm(3))
    layer(X)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied.training and (copied(X).asnumpy() == layer(X).asnumpy()).all()
        copied(X)
    assert layer.num_batches_tracked.asnumpy() == 3


def test_settings_may_change():
    layer = trained(SyncBatchNorm(3))
    layer.momentum = 1.0
    layer(X)
    np.testing.assert_allclose(layer.running_mean.asnumpy(), X.asnumpy().mean((0, 2, 3)), atol=1e-6)
    layer.eps = 1e6
    assert np.abs(layer(X).asnumpy()).max() < 0.1


def test_parameters_of_another_shape_or_dtype():
    layer = trained(SyncBatchNorm(3))
    layer.bias.set_dtype(mindspore.float16)
    with pytest.raises(ValueError, match=r"^bias: shape \(3,\) and dtype mindspore.float16, expected \(3,\) and mindspore.float32"):
        layer(X)
    for name in ("weight", "running_mean", "running_var"):
        getattr(layer, name).set_dtype(mindspore.float16)
    assert layer(X).dtype == mindspore.float32 and layer.running_mean.dtype == mindspore.float16
    layer.weight.set_data(Tensor([1, 1], mindspore.float16), slice_shape=True)
    with pytest.raises(ValueError, match=r"^weight: shape \(2,\)"):
        layer(X)


def test_first_derivatives_only():
    layer = trained(SyncBatchNorm(3))
    inner = mindspore.grad(lambda x: layer(x).pow(3.0).sum())
    of_inner = lambda x: inner(x).sum()
    for outer in (mindspore.grad(of_inner), mindspore.grad(of_inner, None, [layer.weight])):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            outer(X)


def test_graph_mode_and_transformations_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore leaves a file
    layer = trained(SyncBatchNorm(3))

    @mindspore.jit
    def compiled(x):
        return layer(x)

    @mindspore.jit(capture_mode="bytecode")
    def captured(x):
        return layer(x)

    for call in (compiled, captured, lambda x: mindspore.jvp(layer, x, x), mindspore.vmap(layer)):
        with pytest.raises(RuntimeError, match="runs in PyNative mode only"):
            call(X)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    try:
        for net in (layer, trained(nn.SequentialCell(SyncBatchNorm(3)))):
            with pytest.raises(RuntimeError, match="runs in PyNative mode only"):
                net(X)
    finally:
        mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    assert layer.num_batches_tracked.asnumpy() == 0
    layer(X)


def test_tracing_is_refused(tmp_path):
    """In a process of its own: MindSpore does not recover from an exception while it traces."""
    script = """
import mindspore, numpy
from syncbn.mindspore import SyncBatchNorm
mindspore.set_context(mode=mindspore.PYNATIVE_MODE, device_target="CPU")
layer = SyncBatchNorm(3)
traced = mindspore.jit(lambda x: layer(x), capture_mode="trace")
try:
    traced(mindspore.Tensor(numpy.ones((2, 3), numpy.float32)))
except RuntimeError as error:
    print(error, flush=True)
"""
    (tmp_path / "traced.py").write_text(script)
    found = subprocess.run([sys.executable, tmp_path / "traced.py"], capture_output=True, text=True,
                           timeout=200, check=False)
    assert "runs in PyNative mode only" in found.stdout, found


def test_before_init_where_the_environment_names_ranks(monkeypatch):
    monkeypatch.setenv("RANK_SIZE", "2")
    layer = SyncBatchNorm(3)
    assert layer.world_size == 2
    layer(X)  # evaluation needs nobody
    layer.set_train()
    with pytest.raises(syncbn.GroupError, match=r"the environment names 2 ranks.*call mindspore.communication.init\(\)"):
        layer(X)
    assert layer.num_batches_tracked.asnumpy() == 0
