# SPDX-License-Identifier: Apache-2.0

"""convert_sync_batchnorm and revert_sync_batchnorm."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from syncbn.torch import SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm

TYPES = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4, eps=1e-3, momentum=None)
        self.again = self.bn
        self.rest = nn.ModuleList([nn.BatchNorm1d(4, affine=False), nn.BatchNorm3d(4, track_running_stats=False)])
        self.none = None

    def forward(self, x):
        return self.again(self.bn(self.conv(x)))


class Own(nn.BatchNorm2d):
    pass


def quiet(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*arguments)


def test_everything_about_a_layer_is_kept():
    block = Block()
    calls = []
    handle = block.bn.register_forward_hook(lambda *_: calls.append(1))
    block.bn.note = "mine"
    block.bn.activation = "mine, too"
    block.bn.weight.requires_grad_(False)
    block.rest[0].eval()
    before = copy.deepcopy(block)
    parameters, state = dict(block.named_parameters()), block.state_dict()

    converted = quiet(convert_sync_batchnorm, block)
    assert converted is block
    assert [type(m) for m in block.modules() if "Norm" in type(m).__name__] == [SyncBatchNorm] * 3
    assert block.bn is block.again
    assert (block.bn.eps, block.bn.momentum, block.bn.note, block.bn.activation) == (1e-3, None, "mine", None)
    assert not block.bn.weight.requires_grad and not block.rest[0].training and block.bn.training
    assert all(parameter is parameters[name] for name, parameter in block.named_parameters())
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(block(x), before(x), atol=1e-5)
    calls.clear()
    block(x)
    assert len(calls) == 2
    handle.remove()
    block(x)
    assert len(calls) == 2
    before(x), before(x)

    assert quiet(revert_sync_batchnorm, block) is block
    assert [type(m) for m in block.modules()] == [type(m) for m in before.modules()]
    assert vars(block.bn).keys() == vars(before.bn).keys()
    assert block.bn is block.again and block.bn.activation == "mine, too"
    for key, value in before.state_dict().items():
        assert torch.allclose(block.state_dict()[key], value, atol=1e-5), key
    assert block.state_dict().keys() == state.keys()


@pytest.mark.parametrize("cls", TYPES)
def test_a_round_trip_gives_the_type_back(cls):
    layer = cls(4)
    converted = quiet(convert_sync_batchnorm, layer)
    assert type(converted) is SyncBatchNorm and type(layer) is cls
    assert quiet(convert_sync_batchnorm, converted) is converted
    reverted = quiet(revert_sync_batchnorm, converted)
    assert type(reverted) is cls and vars(reverted).keys() == vars(layer).keys()
    assert type(quiet(revert_sync_batchnorm, copy.deepcopy(converted))) is cls


def test_a_bare_layer_and_what_it_became_are_two_layers():
    layer = nn.BatchNorm2d(4)
    parameters, removed = list(layer.parameters()), []
    handle = layer.register_forward_hook(lambda *_: removed.append(1))
    converted = quiet(convert_sync_batchnorm, layer)
    assert all(mine is theirs for mine, theirs in zip(converted.parameters(), parameters))
    converted.weight = nn.Parameter(torch.full((4,), 2.0))
    converted.running_mean = converted.running_var = None
    converted.register_buffer("more", torch.zeros(1), persistent=False)
    converted.part = nn.Identity()
    assert layer.weight is parameters[0] and layer.running_mean is not None
    assert not hasattr(layer, "more") and not hasattr(layer, "part") and not layer._non_persistent_buffers_set
    reverted = quiet(revert_sync_batchnorm, converted)
    reverted.bias = None
    assert converted.bias is parameters[1]
    handle.remove()
    converted(torch.randn(2, 4, 3, 3))
    assert not removed


def test_a_directly_built_layer_needs_its_dimensions_said():
    model = nn.Sequential(nn.BatchNorm2d(3), SyncBatchNorm(3))
    convert_sync_batchnorm(model)
    with pytest.raises(ValueError, match="^1: .*spatial_dims"):
        revert_sync_batchnorm(model)
    assert type(model[0]) is SyncBatchNorm  # nothing has changed
    with pytest.raises(ValueError, match="spatial_dims: 4"):
        revert_sync_batchnorm(model, 4)
    revert_sync_batchnorm(model, spatial_dims=1)
    assert [type(m) for m in model] == [nn.BatchNorm2d, nn.BatchNorm1d]
    with pytest.raises(ValueError, match="activation='relu'"):
        revert_sync_batchnorm(SyncBatchNorm(3, activation="relu"), 2)


def test_what_it_cannot_replace_is_left_and_listed():
    import torch.ao.nn.intrinsic as fused

    parametrized = nn.BatchNorm2d(4)
    parametrize.register_parametrization(parametrized, "weight", nn.Identity())
    patched = nn.BatchNorm2d(4)
    patched.forward = lambda x: x
    quantized = fused.qat.ConvBn2d(3, 4, 1, qconfig=torch.ao.quantization.default_qconfig)
    model = nn.ModuleDict({"own": Own(4), "parametrized": parametrized, "patched": patched, "plain": nn.BatchNorm2d(4),
                           "fused": fused.BNReLU2d(nn.BatchNorm2d(4), nn.ReLU()), "quantized": quantized})
    types = {name: [type(m) for m in part.modules()] for name, part in model.items()}
    with pytest.warns(UserWarning) as caught:
        convert_sync_batchnorm(model)
    message = str(caught[0].message)
    for part in ("own (Own): a subclass", "parametrized (ParametrizedBatchNorm2d): a subclass",
                 "patched (BatchNorm2d): its forward was replaced", "fused.0 (BatchNorm2d): part of a fused",
                 "quantized.bn (BatchNorm2d): part of a fused"):
        assert part in message
    assert type(model["plain"]) is SyncBatchNorm and "plain" not in message
    for name in types.keys() - {"plain"}:
        assert [type(m) for m in model[name].modules()] == types[name]


def test_lazy_layers_and_script_modules_are_refused_before_anything_changes():
    for bad in (nn.LazyBatchNorm2d(), torch.jit.script(nn.Sequential(nn.BatchNorm2d(3)))):
        model = nn.Sequential(nn.BatchNorm2d(3), bad)
        with pytest.raises(ValueError, match="^1"):
            convert_sync_batchnorm(model)
        assert type(model[0]) is nn.BatchNorm2d
    ready = nn.LazyBatchNorm2d()
    ready(torch.randn(2, 3, 4, 4))
    assert type(quiet(convert_sync_batchnorm, ready)) is SyncBatchNorm


def test_converting_twice_or_mixing_with_torchs_own_does_no_harm():
    model = quiet(convert_sync_batchnorm, Block())
    bn = model.bn
    assert quiet(convert_sync_batchnorm, model).bn is bn
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # torch takes ours for one of its own
    assert type(model.bn) is nn.SyncBatchNorm
    assert type(quiet(convert_sync_batchnorm, model).bn) is SyncBatchNorm
