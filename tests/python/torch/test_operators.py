# SPDX-License-Identifier: Apache-2.0

"""Compile, export, modes and tensor subclasses: everything that traces goes through operators."""

import copy
import io

import pytest
import torch
import torch.distributed as dist
import torch._dynamo.testing
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parallel import DistributedDataParallel

from syncbn.torch import SyncBatchNorm, _operators
from syncbn.torch._spec import spec_of
from networks import CLOSE, batches, convolutional, distance, plain_convolutional, train

SHAPES = {
    "2-D": lambda: torch.randn(4, 3),
    "channels first": lambda: torch.randn(4, 3, 5, 6),
    "channels last": lambda: torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last),
    "channels last, 3-D": lambda: torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "every second": lambda: torch.randn(4, 3, 5, 12)[..., ::2],
    "permuted": lambda: torch.randn(5, 6, 3, 4).permute(3, 2, 0, 1),
    "expanded": lambda: torch.randn(1, 3, 5, 6).expand(4, 3, 5, 6),
    "one sample": lambda: torch.randn(1, 3, 5, 6).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(3, 4).t(),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def of(layer):
    """Arguments of the operators that describe a layer, besides its tensors and mode."""
    spec = spec_of(layer, layer.weight, layer.bias, layer.running_mean, layer.weight.dtype)
    return layer._extra.name_tensor, _operators.encoded_settings(spec, layer._extra.process_group_name)


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), SyncBatchNorm(4, name="a"), nn.ReLU(), nn.Conv2d(4, 4, 3),
                         SyncBatchNorm(4, activation="relu", momentum=None, name="b"))


def assert_steps_agree(compiled, model, reference, shape=(4, 3, 8, 8), close=0.0):
    for training in (True, False):
        model.train(training), reference.train(training)
        x = torch.randn(shape)
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        model.zero_grad(), reference.zero_grad()
        ours, theirs = compiled(leaves[0]), reference(leaves[1])
        dy = torch.randn_like(ours)
        ours.backward(dy), theirs.backward(dy)
        pairs = [(ours, theirs), (leaves[0].grad, leaves[1].grad),
                 *zip(model.state_dict().values(), reference.state_dict().values()),
                 *((p.grad, q.grad) for p, q in zip(model.parameters(), reference.parameters()))]
        for one, other in pairs:
            assert (one.double() - other.double()).abs().max() <= close


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_has_the_bits_of_eager(backend):
    model, reference = small(), small()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(2):
        assert_steps_agree(compiled, model, reference)
    for layer in (model[1], reference[1]):
        layer.eps, layer.momentum = 0.5, 0.3
    assert_steps_agree(compiled, model, reference)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), SyncBatchNorm(3, activation="relu")

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="torch 2.4 compiles every module apart")
def test_equal_blocks_are_compiled_once():
    """More of them, each compiled apart, than one code may have versions of."""
    blocks = [Block() for _ in range(torch._dynamo.config.recompile_limit + 4)]
    blocks[3].norm = SyncBatchNorm(3, activation="relu", name="a name")
    assert len({bytes(block.norm._extra.name_tensor) for block in blocks}) == len(blocks)
    references = copy.deepcopy(blocks)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    x = torch.randn(2, 3, 4, 4)
    for block, reference in zip(blocks, references):
        compiled = torch.compile(block, fullgraph=True, backend=counter)
        for net in (compiled, reference):
            net(x).pow(2).sum().backward()
        for (name, ours), theirs in zip(block.state_dict().items(), reference.state_dict().values()):
            assert torch.equal(ours, theirs), name
        for ours, theirs in zip(block.parameters(), reference.parameters()):
            assert torch.equal(ours.grad, theirs.grad)
    assert counter.frame_count == 1


def test_inductor():
    layers = [nn.Sequential(SyncBatchNorm(4), nn.ReLU()) for _ in range(2)]
    compiled = torch.compile(layers[0], fullgraph=True)
    assert_steps_agree(compiled, *layers, shape=(4, 4, 3), close=1e-6)


def test_shapes_that_change():
    layer, reference = SyncBatchNorm(3), SyncBatchNorm(3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 3, 7):
        x = torch.randn(n, 3, 5, n + 1)
        assert torch.equal(compiled(x), reference(x))
    assert torch.equal(layer.running_var, reference.running_var)


@pytest.mark.parametrize("x", SHAPES.values(), ids=SHAPES)
def test_strides_are_those_of_eager_and_of_the_fake_kernel(x):
    x = x()
    layer = SyncBatchNorm(3)
    ours, traced = layer(x), torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(ours, traced) and ours.stride() == traced.stride()
    result = torch.library.opcheck(torch.ops.syncbn.forward.default,
                                   (x, layer.weight, layer.bias, None, None, None, *of(layer), True),
                                   test_utils=("test_schema", "test_faketensor"))
    assert set(result.values()) == {"SUCCESS"}


def test_operators_are_well_formed():
    layer = SyncBatchNorm(3)
    own = of(layer)
    x = torch.randn(4, 3, 2, requires_grad=True)
    y, saved = torch.ops.syncbn.forward(x, layer.weight, layer.bias, None, None, None, *own, True)
    y, saved = y.detach(), saved.detach()
    dy = torch.randn_like(x).requires_grad_()
    *_, sums = torch.ops.syncbn.backward(dy, x, layer.weight, None, saved, *own, True, True, False)
    for operator, arguments in (
            ("forward", (x, layer.weight, layer.bias, x.detach() * 2, None, None, *own, True)),
            ("track", (layer.running_mean, layer.running_var, layer.num_batches_tracked, saved, *own)),
            ("backward", (dy, x, layer.weight, y, saved, *own, True, True, False)),
            ("double_backward", (x.detach() * 3, None, None, None, dy.detach(), x.detach(), layer.weight.detach(), None,
                                 saved, sums.detach(), *own, True))):
        result = torch.library.opcheck(getattr(torch.ops.syncbn, operator).default, arguments)
        assert set(result.values()) == {"SUCCESS"}, operator


def test_export_runs_elsewhere():
    model, reference = small(), small()
    program = torch.export.export(model, (torch.randn(2, 3, 8, 8),))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), reference(x))
    for name, value in reference.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert model[1].num_batches_tracked == 0


def test_make_fx_fake_and_meta():
    layer = SyncBatchNorm(3)
    x = torch.randn(2, 3, 4)
    traced = make_fx(lambda x: layer(x))(x)
    assert "syncbn.forward" in traced.code and "syncbn.track" in traced.code
    assert torch.equal(traced(x), SyncBatchNorm(3)(x))
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode():
        assert SyncBatchNorm(3)(torch.randn(2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.filterwarnings("ignore")  # torch means to give it up
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_jit_trace_keeps_the_call_not_its_result(training, grad):
    layer, reference = SyncBatchNorm(3).train(training), SyncBatchNorm(3).train(training)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(layer, torch.randn(4, 3, 5), check_trace=False)
        layer.load_state_dict(reference.state_dict())
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        x = torch.randn(2, 3, 5)
        expected = reference(x)
        for module in (traced, torch.jit.load(file)):
            assert torch.equal(module(x), expected) or not training and torch.allclose(module(x), expected, atol=1e-6)
            assert torch.equal(module.running_var, reference.running_var)


class Named(torch.Tensor):
    pass


def test_tensor_subclasses():
    layer, reference = SyncBatchNorm(3), SyncBatchNorm(3)
    x = torch.randn(4, 3)
    y = layer(x.as_subclass(Named))
    assert type(y) is Named and torch.equal(y.as_subclass(torch.Tensor), reference(x))
    assert layer.num_batches_tracked == 1


def test_compiled_double_backward_and_torch_func_are_errors():
    layer = SyncBatchNorm(3)
    x = torch.randn(4, 3, requires_grad=True)
    g, = torch.autograd.grad(torch.compile(layer, backend="aot_eager", fullgraph=True)(x).pow(3).sum(), x,
                             create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(g.sum(), x)


def test_wrong_calls_are_errors_when_traced_too():
    compiled = torch.compile(SyncBatchNorm(3), backend="eager")
    for bad in (torch.randn(3), torch.randn(2, 4)):
        with pytest.raises(Exception, match="expected"):
            compiled(bad)


# On two ranks.

STEPS, SAMPLES, SIZES = 3, 6, (2, 4)


def compiled_training(rank, way):
    torch._dynamo.reset()
    model = convolutional(SyncBatchNorm)
    if way == "DDP of compiled":
        wrapped = DistributedDataParallel(torch.compile(model, fullgraph=True, backend="aot_eager"))
    else:
        wrapped = torch.compile(DistributedDataParallel(model), backend="aot_eager")
    begin = sum(SIZES[:rank])
    parts = [(x[begin:begin + SIZES[rank]], t[begin:begin + SIZES[rank]]) for x, t in batches(STEPS, SAMPLES)]
    train(wrapped, parts, SAMPLES, ranks=2)
    return model.state_dict()


@pytest.mark.parametrize("way", ["DDP of compiled", "compiled DDP"])
def test_compiled_training_on_two_ranks(two_ranks, way):
    reference = plain_convolutional()
    train(reference, batches(STEPS, SAMPLES), SAMPLES)
    for state in two_ranks(compiled_training, way):
        assert distance(state, reference.state_dict()) < CLOSE


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = SyncBatchNorm(4), SyncBatchNorm(4)

    def forward(self, x, swapped):
        if swapped:
            b = self.second(x)
            return self.first(x) + b
        a = self.first(x)
        return a + self.second(x)


def reordered(rank):
    """What a compiler does that swaps independent branches on one rank."""
    torch._dynamo.reset()
    compiled = torch.compile(Branches(), fullgraph=True, backend="aot_eager")
    try:
        compiled(torch.randn(3, 4), rank == 1)
    except Exception as error:
        return type(error).__name__, str(error)


class UnequalBranches(nn.Module):
    """Inductor frees the larger branch's memory first, so its backward's order depends on a rank's share of the batch."""

    def __init__(self):
        super().__init__()
        self.first, self.second = SyncBatchNorm(4, name="first"), SyncBatchNorm(4, name="second")

    def forward(self, x, z):
        a, b = self.first(x.repeat(1, 1, 8) * 2), self.second(z.repeat(1, 1, 8) * 3)
        return (b.sum(0).sin() + a.sum(0).cos()).sum() + (b * 2).mean()


def reordered_by_inductor(rank):
    torch._dynamo.reset()
    compiled = torch.compile(UnequalBranches(), fullgraph=True, dynamic=False)
    x, z = (torch.randn(n, 4, 3, requires_grad=True) for n in ((2, 4096) if rank == 0 else (4096, 2)))
    loss = compiled(x, z)
    try:
        loss.backward()
    except Exception as error:
        return type(error).__name__, str(error)


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="torch 2.4's inductor keeps the order")
def test_inductor_on_unequal_shares_is_a_mismatch(two_ranks):
    for name, message in two_ranks(reordered_by_inductor):
        assert name == "MismatchError"
        assert "backward of layer 'first'" in message and "backward of layer 'second'" in message


def test_branches_in_another_order_are_a_mismatch(two_ranks):
    for name, message in two_ranks(reordered):
        assert name == "MismatchError" and "number 1 by construction" in message and "from call 1 on" in message
