# SPDX-License-Identifier: Apache-2.0

"""convert_sync_batchnorm, revert_sync_batchnorm, checkpoints of MindSpore's layers, and export."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, mint, nn

import syncbn
from syncbn.mindspore import SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm

mindspore.set_context(mode=mindspore.PYNATIVE_MODE, device_target="CPU")
C = 3
RANDOM = np.random.default_rng(0)
CLASSES = {
    nn.BatchNorm1d: (4, C, 5),
    nn.BatchNorm2d: (4, C, 5, 2),
    nn.BatchNorm3d: (4, C, 5, 2, 3),
    nn.SyncBatchNorm: (4, C, 5, 2),
    mint.nn.BatchNorm1d: (4, C, 5),
    mint.nn.BatchNorm2d: (4, C, 5, 2),
    mint.nn.BatchNorm3d: (4, C, 5, 2, 3),
    mint.nn.SyncBatchNorm: (4, C, 5, 2),
}
# mint.nn.BatchNorm1d, 2d and 3d have no kernel on CPU.
RUNS = {cls for cls in CLASSES if not (cls.__module__.startswith("mindspore.mint") and "Sync" not in cls.__name__)}
IDS = [f"{cls.__module__.split('.')[1]}.{cls.__name__}" for cls in CLASSES]


class Net(nn.Cell):
    def __init__(self, cls, **arguments):
        super().__init__()
        self.body = nn.SequentialCell(nn.ReLU(), cls(C, **arguments))
        self.last = cls(C)

    def construct(self, x):
        return self.last(self.body(x))


class Outer(nn.Cell):
    def __init__(self, net):
        super().__init__()
        self.inner = net


def batch(cls):
    return Tensor(RANDOM.standard_normal(CLASSES[cls]).astype(np.float32))


def filled(net):
    """With values that tell the parameters apart, and evaluating."""
    for i, parameter in enumerate(net.get_parameters()):
        if parameter.dtype == mindspore.float32:
            parameter.set_data(Tensor(np.linspace(0.5, 1.5, C) + i / 8, mindspore.float32))
    net.set_train(False)
    return net


def contents(net):
    return {p.name: p.asnumpy().tobytes() for p in net.get_parameters()}


def evaluated(net, x):
    """`net`, of layers of mint.nn, on `x`, by NumPy."""
    y = np.maximum(x.asnumpy(), 0)
    for layer in (net.body[1], net.last):
        mean, var, weight, bias = (p.asnumpy().reshape(C, *[1] * (y.ndim - 2)) for p in (
            layer.running_mean, layer.running_var, layer.weight, layer.bias))
        y = (y - mean) / np.sqrt(var + layer.eps) * weight + bias
    return y


@pytest.mark.parametrize("cls", CLASSES, ids=IDS)
def test_converted_layers_have_the_parameters_and_evaluate_as_before(cls):
    net, x = filled(Net(cls, eps=1e-3)), batch(cls)
    parameters, values = list(net.get_parameters()), contents(net)
    before = net(x).asnumpy() if cls in RUNS else evaluated(net, x)
    assert convert_sync_batchnorm(net) is net
    assert type(net.body[1]) is type(net.last) is SyncBatchNorm
    assert all(a is b for a, b in zip(parameters, net.get_parameters(), strict=True))  # optimizers fit
    assert contents(net) == values
    np.testing.assert_allclose(net(x).asnumpy(), before, rtol=2e-5, atol=2e-5)
    assert (net.body[1]._name_in_group, net.last._name_in_group) == ("body.1", "last")
    assert (net.body[1].eps, net.body[1].momentum) == (1e-3, 0.1)  # MindSpore's 0.9 where it weighs the old statistics
    assert convert_sync_batchnorm(net).last is net.last  # once more: nothing to do
    revert_sync_batchnorm(net)
    assert type(net.body[1]) is type(net.last) is cls
    assert all(a is b for a, b in zip(parameters, net.get_parameters(), strict=True))
    assert cls not in RUNS or net(x).asnumpy().tobytes() == before.tobytes()


@pytest.mark.parametrize("momentum", [0.9, 0.75, 1.0, 0.0])
@pytest.mark.parametrize("cls", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_training_moves_the_statistics_as_before(cls, momentum):
    x = batch(cls)
    theirs, ours = (filled(cls(C, momentum=momentum)) for _ in range(2))
    ours = convert_sync_batchnorm(ours)
    assert ours.momentum == 1 - momentum or ours.momentum == round(1 - momentum, 15)
    for layer in (theirs, ours):
        layer.set_train()
        layer(x)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_allclose(getattr(ours, name).asnumpy(), getattr(theirs, name).asnumpy(), rtol=1e-5)
    moved = ours.running_mean.asnumpy() != filled(cls(C)).moving_mean.asnumpy()
    assert moved.all() == (momentum < 1)  # control


@pytest.mark.parametrize("cls", CLASSES, ids=IDS)
def test_checkpoints_fit_both_nets(cls, tmp_path):
    for nest in (lambda net: net, Outer):  # a Cell around a net renames its parameters
        theirs, ours = nest(filled(Net(cls))), nest(convert_sync_batchnorm(Net(cls)))
        for source, target in ((theirs, ours), (ours, theirs)):
            values = contents(source)
            assert contents(target) != values or source is ours
            mindspore.save_checkpoint(source, str(tmp_path / "net.ckpt"))
            file = mindspore.load_checkpoint(str(tmp_path / "net.ckpt"))
            assert mindspore.load_param_into_net(target, file, strict_load=True) == ([], [])
            assert contents(target) == values


def test_names_of_mindspores_parameters_work_on_converted_layers():
    layer = convert_sync_batchnorm(filled(nn.BatchNorm3d(C)))
    assert layer.weight.name == "bn2d.gamma" and layer.running_var.name == "bn2d.moving_variance"
    layer.weight = Tensor(np.full(C, 7), mindspore.float32)
    assert (next(p for p in layer.get_parameters() if p.name == "bn2d.gamma").asnumpy() == 7).all()
    layer.reset_parameters()
    assert (layer.weight.asnumpy() == 1).all() and (layer.running_mean.asnumpy() == 0).all()


def test_frozen_parameters_modes_and_casts_are_kept():
    layer = nn.BatchNorm2d(C, affine=False, moving_mean_init="ones")
    layer.set_train()
    layer.to_float(mindspore.float16)
    converted = convert_sync_batchnorm(layer)
    assert converted.training and not converted.weight.requires_grad
    assert converted.mixed_precision_type == layer.mixed_precision_type
    assert (converted.running_mean.asnumpy() == 1).all()
    reverted = revert_sync_batchnorm(converted)
    assert reverted.training and reverted.mixed_precision_type == layer.mixed_precision_type


def test_a_layer_that_is_used_twice_stays_one():
    layer = nn.BatchNorm2d(C)
    net = nn.SequentialCell(layer, nn.ReLU(), layer)
    convert_sync_batchnorm(net)
    assert net[0] is net[2] and net.cell_list[0] is net[0] and type(net[0]) is SyncBatchNorm


class Subclass(nn.BatchNorm2d):
    pass


def test_what_is_left_is_in_the_warning():
    hooked = nn.BatchNorm2d(C)
    hooked.register_forward_hook(lambda *arguments: None)
    frozen = nn.BatchNorm2d(C, use_batch_statistics=False)
    net = nn.SequentialCell(Subclass(C), hooked, frozen, nn.BatchNorm2d(C))
    before = list(net)
    with pytest.warns(UserWarning, match=r"0 \(Subclass\): a subclass; 1 \(BatchNorm2d\): it has hooks; "
                                         r"2 \(BatchNorm2d\): use_batch_statistics=False$"):
        convert_sync_batchnorm(net)
    assert list(net)[:3] == before[:3] and type(net[3]) is SyncBatchNorm


def test_a_failure_changes_nothing(monkeypatch):
    net = Net(nn.BatchNorm2d)
    before = [net.body[1], net.last]
    with pytest.raises(syncbn.GroupError, match="'nope'"):
        convert_sync_batchnorm(net, "nope")
    assert [net.body[1], net.last] == before


def test_a_layer_made_directly_reverts_to_mindspores():
    layer = filled(SyncBatchNorm(C, momentum=None, eps=1e-3))
    reverted = revert_sync_batchnorm(nn.SequentialCell(layer))[0]
    assert type(reverted) is mint.nn.SyncBatchNorm and reverted.weight is layer.weight
    assert (reverted.momentum, reverted.eps) == (None, 1e-3)


@pytest.mark.parametrize("arguments", [{}, {"affine": False}, {"dtype": mindspore.float16}], ids=str)
def test_evaluation_is_compiled_and_exported(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = nn.SequentialCell(SyncBatchNorm(C, **arguments), nn.ReLU())
    net[0].running_mean = Tensor([0.5, -1, 2], net[0].dtype)
    for shape in ((4, C, 5, 2), (4, C), (4, C, 5, 2, 3)):
        x = Tensor(RANDOM.standard_normal(shape).astype(np.float32))
        eager = net(x).asnumpy()
        np.testing.assert_allclose(mindspore.jit(net)(x).asnumpy(), eager, rtol=1e-5, atol=1e-5)
        mindspore.export(net, x, file_name="net", file_format="MINDIR")
        loaded = nn.GraphCell(mindspore.load("net.mindir"))
        np.testing.assert_allclose(loaded(x).asnumpy(), eager, rtol=1e-5, atol=1e-5)
    mindspore.export(net, x, file_name="net", file_format="ONNX")


@pytest.mark.parametrize("case", ["training", "no running statistics"])
def test_an_export_that_does_not_work_names_the_way(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = SyncBatchNorm(C, track_running_stats=case == "training")
    layer.set_train(case == "training")
    with pytest.raises(RuntimeError, match=r"set_train\(False\), or revert_sync_batchnorm\(\)"):
        mindspore.export(layer, batch(nn.BatchNorm2d), file_name="net", file_format="MINDIR")
