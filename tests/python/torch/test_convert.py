# SPDX-License-Identifier: Apache-2.0

"""convert_sync_batchnorm, revert_sync_batchnorm and name_layers: which layers, of which class, under which name."""

import copy
import io
import pickle
import typing
import warnings

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

import syncbn
from syncbn.torch import (SyncBatchNorm, SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d, convert_sync_batchnorm, name_layers,
                          revert_sync_batchnorm)
from syncbn.torch._extra_options import identity_of

#: Each class that is replaced, and the class in its place.
CLASSES = {nn.BatchNorm1d: SyncBatchNorm1d, nn.BatchNorm2d: SyncBatchNorm2d, nn.BatchNorm3d: SyncBatchNorm3d,
           nn.SyncBatchNorm: SyncBatchNorm}
IS_TORCH24 = torch.__version__.startswith("2.4.")


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


def quiet(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*arguments, **options)


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
    assert [type(m) for m in block.modules() if "Norm" in type(m).__name__] == [SyncBatchNorm2d, SyncBatchNorm1d,
                                                                                SyncBatchNorm3d]
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


@pytest.mark.parametrize("cls", CLASSES)
def test_a_round_trip_gives_the_type_back(cls):
    layer = cls(4)
    converted = quiet(convert_sync_batchnorm, layer)
    assert type(converted) is CLASSES[cls] and type(layer) is cls
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
    assert type(model[0]) is SyncBatchNorm2d  # nothing has changed
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
    assert type(model["plain"]) is SyncBatchNorm2d and "plain" not in message
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
    assert type(quiet(convert_sync_batchnorm, ready)) is SyncBatchNorm2d


def test_converting_twice_or_mixing_with_torchs_own_does_no_harm():
    model = quiet(convert_sync_batchnorm, Block())
    bn = model.bn
    assert quiet(convert_sync_batchnorm, model).bn is bn
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # torch takes ours for one of its own
    assert type(model.bn) is nn.SyncBatchNorm
    assert type(quiet(convert_sync_batchnorm, model).bn) is SyncBatchNorm
    assert type(quiet(revert_sync_batchnorm, model).bn) is nn.SyncBatchNorm


# The class.

def frozen(model):
    """Training with batch norms in evaluation, as programs freeze them: by class."""
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.eval()
    return model


@pytest.mark.parametrize("cls, shape", list(zip(CLASSES, [(4, 3), (4, 3, 2, 2), (4, 3, 2, 2, 2),
                                                           (4, 3, 2)])))
def test_code_that_freezes_by_class_finds_what_it_found_before(cls, shape):
    for layer in (cls(3), quiet(convert_sync_batchnorm, cls(3))):
        if type(layer) is nn.SyncBatchNorm:
            continue  # works on GPUs only
        frozen(nn.Sequential(layer))(torch.randn(shape))
        assert (layer.num_batches_tracked == 0) == (cls is not nn.SyncBatchNorm)
    plain = SyncBatchNorm(3)  # control: what is an instance of none of the classes moves
    frozen(nn.Sequential(plain))(torch.randn(shape))
    assert plain.num_batches_tracked == 1


@pytest.mark.parametrize("cls", list(CLASSES)[:3])
def test_a_layer_is_an_instance_of_the_class_it_replaced_in_every_copy(cls):
    layer = CLASSES[cls](3, activation="relu", name="stem")
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    with torch.serialization.safe_globals([CLASSES[cls]]) if not IS_TORCH24 else warnings.catch_warnings():
        loaded = torch.load(file, weights_only=not IS_TORCH24)
    for copied in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert type(copied) is CLASSES[cls] and isinstance(copied, cls) and isinstance(copied, SyncBatchNorm)
        assert not isinstance(copied, nn.SyncBatchNorm)  # which DistributedDataParallel refuses on CPU
        assert copied.activation == "relu" and copied.layer_name == "stem"
        assert copied(torch.randn(4, 3)).shape == (4, 3)  # dimensions stay free
        assert type(revert_sync_batchnorm(CLASSES[cls](3))) is cls
    theirs = cls(3)
    theirs.load_state_dict(layer.state_dict())
    layer.load_state_dict(theirs.state_dict())


def test_tools_for_batch_norm_work_with_converted_layers():
    torch.manual_seed(0)
    conv, norm, x = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.normal_()
    model = convert_sync_batchnorm(nn.Sequential(conv, norm)).eval()
    assert torch.allclose(fuse_conv_bn_eval(*model)(x), model(x), atol=1e-5)
    ours, theirs = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3))), nn.Sequential(nn.BatchNorm2d(3))
    for net in (ours, theirs):
        torch.optim.swa_utils.update_bn([x, x * 2], net)
    assert torch.allclose(ours[0].running_var, theirs[0].running_var, atol=1e-6)
    torch.func.replace_all_batch_norm_modules_(ours)
    assert ours[0].running_mean is None and not ours[0].track_running_stats


def fused_by_exact_type(model):
    torch.ao.quantization.fuse_modules(model.eval(), [["0", "1"]], inplace=True)


def test_fusion_by_exact_type_treats_it_as_torchs_own_sync_batch_norm():
    make = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))  # noqa: E731
    for model in (nn.SyncBatchNorm.convert_sync_batchnorm(make()), convert_sync_batchnorm(make())):
        with pytest.raises((AssertionError, NotImplementedError), match="did not find fuser method"):
            fused_by_exact_type(model)
    model = revert_sync_batchnorm(convert_sync_batchnorm(make()))
    fused_by_exact_type(model)
    assert type(model[1]) is nn.Identity


def classes_on_two_ranks(rank):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
        net = DistributedDataParallel(model)
        net = torch.compile(net, backend="aot_eager") if compiled else net
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
        net(x[rank * 2:rank * 2 + 2]).pow(2).sum().backward()
        results.append((type(model[1]).__name__, model[1].running_mean, model[0].weight.grad))
    return results


def test_the_classes_train_under_ddp_and_compile(two_ranks):
    first, second = two_ranks(classes_on_two_ranks)
    for (name, mean, grad), (_, other_mean, other_grad) in zip(first, second):
        assert name == "SyncBatchNorm2d" and torch.equal(mean, other_mean) and torch.equal(grad, other_grad)
    torch.manual_seed(3)
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    whole(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(mean, whole[1].running_mean, atol=1e-6)


def fully_sharded(rank):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    torch.manual_seed(3)
    model = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    mesh = init_device_mesh("cpu", (2,))
    for part in (*model, model):
        fully_shard(part, mesh=mesh)
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    model(x[rank * 2:rank * 2 + 2]).pow(2).sum().backward()
    with pytest.warns(UserWarning, match="1 .FSDPSyncBatchNorm2d.: a subclass"):
        revert_sync_batchnorm(model)
    return type(model[1]).__name__, model[1].running_mean, isinstance(model[1], nn.BatchNorm2d)


@pytest.mark.skipif(IS_TORCH24, reason="torch 2.4 has no such sharding on CPU")
def test_fully_sharded_layers(two_ranks):
    torch.manual_seed(3)
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    whole(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1)))
    for name, mean, is_batch_norm in two_ranks(fully_sharded):
        assert name == "FSDPSyncBatchNorm2d" and is_batch_norm
        assert torch.allclose(mean, whole[1].running_mean, atol=1e-6)


# Own classes, options and names.

class Act(nn.BatchNorm2d):
    def forward(self, x):
        return self.act(super().forward(x))


class SyncAct(SyncBatchNorm2d):
    def forward(self, x):
        return self.act(super().forward(x))


def test_own_classes_are_replaced_by_own_classes():
    model = nn.Sequential(Act(3), nn.BatchNorm2d(3), SyncAct(3))
    model[0].act, model[2].act = nn.Hardtanh(), nn.Identity()
    x, mapping = torch.randn(4, 3, 2, 2), {Act: SyncAct}
    expected = copy.deepcopy(model)(x)
    assert quiet(convert_sync_batchnorm, model, mapping=mapping) is model
    assert [type(m) for m in model] == [SyncAct, SyncBatchNorm2d, SyncAct]
    assert torch.allclose(model(x), expected, atol=1e-5)
    quiet(revert_sync_batchnorm, model, mapping=mapping)
    assert [type(m) for m in model] == [Act, nn.BatchNorm2d, Act]
    assert type(convert_sync_batchnorm(nn.BatchNorm2d(3), mapping={nn.BatchNorm2d: SyncAct})) is SyncAct
    for bad in ({nn.LayerNorm: SyncAct}, {Act: nn.BatchNorm2d}, {"Act": SyncAct}):
        with pytest.raises(TypeError, match="mapping: .*, expected a subclass of"):
            convert_sync_batchnorm(model, mapping=bad)


def test_revert_lists_what_it_leaves():
    patched = SyncBatchNorm2d(3)
    patched.forward = lambda x: x
    model = nn.Sequential(SyncAct(3), patched, SyncBatchNorm2d(3))
    with pytest.warns(UserWarning, match="revert_sync_batchnorm left .*: 0 .SyncAct.: a subclass; 1 .*: its forward was replaced$"):
        revert_sync_batchnorm(model)
    assert [type(m) for m in model] == [SyncAct, SyncBatchNorm2d, nn.BatchNorm2d]


def test_nonfinite_is_an_option_of_the_conversion():
    model = quiet(convert_sync_batchnorm, nn.Sequential(nn.BatchNorm1d(2)), nonfinite="skip_update")
    model(torch.tensor([[1.0, float("inf")], [2.0, 1.0]]))
    assert model[0].nonfinite == "skip_update" and torch.isfinite(model[0].running_mean).all()
    with pytest.raises(ValueError, match="0: nonfinite='skip_update'.*call eval"):
        revert_sync_batchnorm(model)
    assert type(quiet(revert_sync_batchnorm, model.eval())[0]) is nn.BatchNorm1d
    with pytest.raises(syncbn.InvalidArgument, match="nonfinite: 'skip', expected one of"):
        convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(2)), nonfinite="skip")


def test_converted_layers_have_the_names_of_their_places():
    model = quiet(convert_sync_batchnorm, nn.ModuleDict({"stem": nn.BatchNorm2d(4), "layer1": Block()}))
    assert {path: m.layer_name for path, m in model.named_modules() if isinstance(m, SyncBatchNorm)} == {
        path: path for path in ("stem", "layer1.bn", "layer1.rest.0", "layer1.rest.1")}
    assert repr(model.layer1.bn).endswith(", name=layer1.bn)")
    assert convert_sync_batchnorm(nn.BatchNorm2d(4)).layer_name == ""  # its place has no path


def test_name_layers_names_what_has_no_name():
    model = nn.Sequential(SyncBatchNorm(3), nn.Sequential(SyncBatchNorm2d(3, name="mine"), SyncAct(3)))
    assert "name=" not in repr(model[0])
    assert quiet(name_layers, model) is model
    assert [m.layer_name for m in model.modules() if isinstance(m, SyncBatchNorm)] == ["0", "mine", "1.1"]
    again = pickle.loads(pickle.dumps(model))
    assert again[1][1].layer_name == "1.1" and identity_of(again[1][1]._extra.name_tensor)[0] == "1.1"


def other_layer_first(rank):
    model = convert_sync_batchnorm(nn.ModuleDict({"stem": nn.BatchNorm1d(4), "layer1": Named()}))
    model["stem"](torch.randn(3, 4))
    try:
        (model["stem"] if rank == 0 else model["layer1"].bn)(torch.randn(3, 4))
    except syncbn.MismatchError as error:
        return str(error)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(4)


def test_errors_name_the_place_of_a_converted_layer(two_ranks):
    for message in two_ranks(other_layer_first):
        assert "layer 'stem'" in message and "layer 'layer1.bn'" in message


@pytest.mark.parametrize("function", [convert_sync_batchnorm, revert_sync_batchnorm, name_layers])
def test_the_static_type_is_that_of_the_model(function):
    hints = typing.get_type_hints(function)
    assert isinstance(hints["module"], typing.TypeVar) and hints["return"] is hints["module"]
