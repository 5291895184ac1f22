# SPDX-License-Identifier: Apache-2.0

"""The module in one process: values, state, dtypes, memory formats, modes."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import networks
from syncbn.torch import SyncBatchNorm, convert_sync_batchnorm

OF_DIMENSIONS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
SHAPES = [(6, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 4, 5, 6)]
# Error of the dtype's rounding against torch's own layer, relative to values of about 1.
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def assert_close(ours, theirs, dtype):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours.double() - theirs.double()).abs().max() <= CLOSE[dtype] * max(1.0, theirs.double().abs().max().item())


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_torchs(shape, dtype):
    theirs = OF_DIMENSIONS[len(shape)](3)
    ours = SyncBatchNorm(3)
    if dtype is torch.float64:
        theirs.double(), ours.double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        x = torch.randn(shape, dtype=dtype) * 2 + 1
        dy = torch.randn(shape, dtype=dtype)
        results = []
        for layer in (ours, theirs):
            leaf = x.clone().requires_grad_()
            layer.zero_grad()
            y = layer(leaf)
            y.backward(dy)
            results.append((y, leaf.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var))
        for ours_value, theirs_value in zip(*results):
            assert_close(ours_value, theirs_value, dtype)
        assert ours.num_batches_tracked == theirs.num_batches_tracked
    ours.eval(), theirs.eval()
    assert_close(ours(x), theirs(x), dtype)


def test_more_dimensions():
    x = torch.randn(2, 3, 2, 3, 2, 3)
    assert_close(SyncBatchNorm(3)(x), nn.BatchNorm1d(3)(x.flatten(2)).reshape(x.shape), torch.float32)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"track_running_stats": False},
                                     {"momentum": None}, {"momentum": 1.0, "eps": 0.1}])
@pytest.mark.parametrize("training", [True, False])
def test_options_are_torchs(options, training):
    theirs_options = {key: value for key, value in options.items() if key != "bias"}
    ours, theirs = SyncBatchNorm(3, **options), nn.BatchNorm2d(3, **theirs_options)
    if not options.get("bias", True):
        theirs.register_parameter("bias", None)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for _ in range(3):
        x = torch.randn(4, 3, 2, 2) + 1
        assert_close(ours(x), theirs(x), torch.float32)
    ours.train(training), theirs.train(training)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    for layer, leaf in zip((ours, theirs), leaves):
        layer(leaf).pow(2).sum().backward()
    assert_close(leaves[0].grad, leaves[1].grad, torch.float32)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name


def test_attributes_may_change_and_buffers_may_go():
    ours, theirs = SyncBatchNorm(3), nn.BatchNorm1d(3)
    x = torch.randn(5, 3)
    for change in (lambda m: setattr(m, "momentum", 0.5), lambda m: setattr(m, "eps", 0.1),
                   lambda m: setattr(m, "track_running_stats", False), lambda m: m.eval(),
                   lambda m: [setattr(m, key, None) for key in ("running_mean", "running_var", "num_batches_tracked")],
                   lambda m: setattr(m, "weight", nn.Parameter(torch.tensor([1., 2., 3.]))),
                   lambda m: setattr(m, "bias", None)):
        change(ours), change(theirs)
        assert_close(ours(x), theirs(x), torch.float32)
        for name, value in theirs.state_dict().items():
            assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name


@pytest.mark.parametrize("by", ["forward", "_forward_by_operators"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_without_a_counter_moves_nobody_elses(momentum, by):
    ours, theirs = SyncBatchNorm(3, momentum=momentum, name="alike"), nn.BatchNorm1d(3, momentum=momentum)
    other = SyncBatchNorm(3, momentum=momentum, name="alike")  # shares the core's layer
    x = torch.randn(5, 3)
    ours(x), theirs(x), other(x)
    counters = ours.num_batches_tracked, other.num_batches_tracked
    ours.num_batches_tracked = theirs.num_batches_tracked = None
    for _ in range(2):
        assert_close(getattr(ours, by)(x, None), theirs(x), torch.float32)
    assert counters == (1, 1)
    assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-6)


@pytest.mark.parametrize("cls", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
@pytest.mark.parametrize("assign", [True, False])
def test_state_dicts_interchange(cls, assign):
    source = cls(3)
    for value in source.state_dict().values():
        value.copy_(torch.arange(3) + 2 if value.dim() else torch.tensor(7))
    layer = SyncBatchNorm(3)
    layer(torch.randn(4, 3))
    layer.load_state_dict(source.state_dict(), assign=assign)
    back = cls(3)
    back.load_state_dict(layer.state_dict())
    for name, value in source.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


def test_old_state_dicts_have_no_counter():
    old = nn.BatchNorm2d(3).state_dict()
    del old["num_batches_tracked"]
    old._metadata[""]["version"] = 1
    layer = SyncBatchNorm(3)
    layer.load_state_dict(old)
    assert layer.num_batches_tracked == 0


def test_save_and_load_in_the_middle_of_a_run():
    def step(layer, i):
        torch.manual_seed(i)
        return layer(torch.randn(4, 3) * (i + 1))

    through, first = SyncBatchNorm(3, momentum=None), SyncBatchNorm(3, momentum=None)
    for i in range(3):
        step(through, i), step(first, i)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = SyncBatchNorm(3, momentum=None)
    second.load_state_dict(torch.load(file))
    for i in range(3, 6):
        assert torch.equal(step(through, i), step(second, i))
    assert torch.equal(through.running_var, second.running_var)


def test_copies_and_pickles_work_alone_and_keep_the_name():
    layer = SyncBatchNorm(3, activation="relu", name="stem")
    layer(torch.randn(4, 3))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.layer_name == "stem" and other.activation == "relu"
        before = layer.running_mean.clone()
        other(torch.randn(4, 3))
        assert torch.equal(layer.running_mean, before) and not torch.equal(other.running_mean, before)


def test_repr_is_torchs():
    assert repr(SyncBatchNorm(3)) == repr(nn.SyncBatchNorm(3))
    assert repr(SyncBatchNorm(3, activation="relu")).endswith(", activation=relu)")


def test_it_is_a_batch_norm_and_not_torchs_sync_batch_norm():
    layer = SyncBatchNorm(3)
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, nn.SyncBatchNorm)


@pytest.mark.parametrize("training", [True, False])
def test_relu_and_residual_are_the_separate_steps(training):
    fused, plain = SyncBatchNorm(3, activation="relu"), SyncBatchNorm(3)
    fused.train(training), plain.train(training)
    x, residual, dy = (torch.randn(4, 3, 5) for _ in range(3))
    results = []
    for layer, last in ((fused, lambda y, r: y), (plain, lambda y, r: torch.relu(y + r))):
        a, b = x.clone().requires_grad_(), residual.clone().requires_grad_()
        y = layer(a, b) if layer is fused else last(layer(a), b)
        y.backward(dy)
        results.append((y, a.grad, b.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*results):
        assert torch.equal(one, other)
    a, b = x.clone().requires_grad_(), residual.clone().requires_grad_()
    SyncBatchNorm(3)(a, b).backward(dy)
    assert torch.equal(b.grad, dy)


@pytest.mark.parametrize("nonfinite", ["propagate", "skip_update", "error"])
def test_nonfinite_statistics(nonfinite):
    layer = SyncBatchNorm(2, nonfinite=nonfinite)
    x = torch.randn(4, 2)
    x[1, 0] = float("inf")
    if nonfinite == "error":
        with pytest.raises(ValueError, match="channel 0"):
            layer(x)
        assert layer.num_batches_tracked == 0
        return
    layer(x)
    assert torch.isfinite(layer.running_mean).tolist() == [nonfinite == "skip_update", True]
    assert layer.num_batches_tracked == 1


def test_inputs_without_gradient_and_frozen_parameters():
    layer = SyncBatchNorm(3)
    layer(torch.randn(4, 3)).sum().backward()
    assert layer.weight.grad is not None
    layer = SyncBatchNorm(3).requires_grad_(False)
    x = torch.randn(4, 3, requires_grad=True)
    layer(x).pow(3).sum().backward()
    assert layer.weight.grad is None and x.grad.abs().max() > 0
    y = layer(torch.randn(4, 3))
    assert not y.requires_grad
    layer = SyncBatchNorm(3)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and torch.equal(layer.bias.grad, torch.full((3,), 4.0))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_move_the_statistics_alike(context):
    layer, reference = SyncBatchNorm(3), SyncBatchNorm(3)
    x = torch.randn(4, 3)
    with context():
        y = layer(x)
    assert torch.equal(y, reference(x)) and torch.equal(layer.running_mean, reference.running_mean)
    layer.eval()
    with context():
        layer(x)


def test_an_empty_batch():
    layer = SyncBatchNorm(3)
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 3, 4, 4)
    assert layer.num_batches_tracked == 0 and layer.running_var.eq(1).all()
    assert layer.weight.grad.eq(0).all() and layer.bias.grad.eq(0).all()


def test_a_layer_used_twice_before_backward():
    layer, once = SyncBatchNorm(3), SyncBatchNorm(3)
    x, z = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    a, b = layer(x), layer(z)
    (a.pow(3).sum() + b.pow(3).sum()).backward()
    gradient = x.grad.clone()
    x.grad = None
    once(x).pow(3).sum().backward()
    assert torch.equal(gradient, x.grad)


@pytest.mark.parametrize("by", ["forward", "_forward_by_operators"])
def test_layers_that_are_alike_in_several_threads(by):
    """Copies share the core's layer, which takes one call at a time, each with its own values."""
    torch.manual_seed(2)
    layers = [copy.deepcopy(SyncBatchNorm(64, activation="relu", name="alike")) for _ in range(4)]
    for i, layer in enumerate(layers):
        nn.init.normal_(layer.weight), nn.init.constant_(layer.running_mean, i)
    references = copy.deepcopy(layers)
    inputs = [torch.randn(8, 64, 5) + i for i in range(4)]

    def steps(layer, x):
        gradients = []
        for i in range(30):
            layer.train(i % 3 != 2)
            layer.zero_grad()
            leaf = (x * (i + 1)).requires_grad_()
            getattr(layer, by)(leaf, None).pow(2).sum().backward()
            gradients += [leaf.grad, layer.weight.grad, layer.bias.grad]
        return gradients + list(layer.state_dict().values())

    with ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(pool.map(steps, layers, inputs), map(steps, references, inputs)):
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs))


def test_a_changed_input_is_noticed_and_changed_buffers_are_no_ones_business():
    layer = SyncBatchNorm(3)
    x = torch.randn(4, 3, requires_grad=True).clone()
    y = layer(x)
    layer(x)  # moves running statistics, which this backward does not read
    y.sum().backward(retain_graph=True)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_changed_statistics_are_noticed_by_those_who_saved_them():
    layer = SyncBatchNorm(3)
    scale = torch.ones(3, requires_grad=True)
    product = (scale * layer.running_var).sum()
    layer(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_what_batch_norm_does(dtype):
    ours, theirs, convolution = SyncBatchNorm(4), nn.BatchNorm2d(4), nn.Conv2d(3, 4, 1)
    x = torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", dtype):
        h = convolution(x)
        assert h.dtype == ours(h).dtype == theirs(h).dtype == dtype
        assert ours(x[:, [0, 1, 2, 0]]).dtype == theirs(x[:, [0, 1, 2, 0]]).dtype == torch.float32
    ours.train(False)
    with torch.autocast("cpu", dtype):
        assert ours(h).dtype == dtype


def test_half_parameters():
    layer = SyncBatchNorm(3, dtype=torch.bfloat16)
    layer(torch.randn(8, 3)).sum().backward()
    assert layer.weight.grad.dtype == layer.running_mean.dtype == torch.bfloat16
    layer = SyncBatchNorm(3).half()
    assert layer(torch.randn(8, 3).half()).dtype == torch.float16


def test_other_devices_are_refused():
    # The machine has none; a tensor that says it is elsewhere takes the same way.
    class Elsewhere(torch.Tensor):
        is_cpu, device = False, torch.device("cuda", 0)

    layer = SyncBatchNorm(3)
    with pytest.raises(ValueError, match="expected input tensor to be on CPU .got cuda:0"):
        layer(torch.randn(2, 3).as_subclass(Elsewhere))
    assert SyncBatchNorm(3, device="meta")(torch.randn(2, 3, device="meta")).is_meta


def test_converted_models_train_like_their_originals():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()
    converted = convert_sync_batchnorm(copy.deepcopy(model))
    x = torch.randn(16, 4, dtype=torch.float64)
    for net in (model, converted):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            net(x).pow(2).mean().backward()
            optimizer.step()
    assert networks.distance(converted.state_dict(), model.state_dict()) < networks.CLOSE
