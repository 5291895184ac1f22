# SPDX-License-Identifier: Apache-2.0

"""First and second derivatives; what has none."""

import pytest
import torch
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck

from syncbn.torch import SyncBatchNorm

SHAPES = [(4, 2), (3, 2, 3), (2, 2, 2, 2)]


def layer_of(**options):
    layer = SyncBatchNorm(2, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(2) + 2)
        if layer.running_mean is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return layer


@pytest.mark.parametrize("by", ["forward", "_forward_by_operators"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"track_running_stats": False},
                                     {"activation": "relu"}], ids=str)
def test_both_derivatives(options, training, by):
    for i, shape in enumerate(SHAPES):
        layer = layer_of(**options).train(training)
        call = getattr(layer, by)
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        residual = torch.randn(shape, dtype=torch.float64, requires_grad=True) if i == 1 else None
        inputs = [t for t in (x, residual, *layer.parameters()) if t is not None]
        function = lambda *_: call(x, residual)  # noqa: E731
        assert gradcheck(function, inputs) and gradgradcheck(function, inputs)


def test_some_gradients_only():
    layer = layer_of()
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    layer.weight.requires_grad_(False)
    assert gradgradcheck(lambda x, b: layer(x), (x, layer.bias))
    layer.requires_grad_(False)
    assert gradgradcheck(lambda x: layer(x), (x,))
    layer.weight.requires_grad_()
    assert gradgradcheck(lambda w: layer(x.detach()), (layer.weight,))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_double_backward_in_single_precision_and_any_order(order):
    results = []
    for dtype, norm in ((torch.float32, SyncBatchNorm(3)), (torch.float64, nn.BatchNorm2d(3).double())):
        torch.manual_seed(0)
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64).to(dtype).to(memory_format=order).requires_grad_()
        g, = grad((norm(x) ** 3).sum(), x, create_graph=True)
        results.append(grad((g ** 2).sum(), (x, norm.weight)))
    for ours, theirs in zip(*results):
        assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


@pytest.mark.parametrize("by", ["forward", "_forward_by_operators"])
def test_third_derivatives_are_refused_not_wrong(by):
    layer = layer_of()
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    first, = grad(getattr(layer, by)(x, None).pow(3).sum(), x, create_graph=True)
    second, = grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative|no autograd formula"):
        grad(second.pow(2).sum(), x)


@pytest.mark.parametrize("transform", [
    lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    lambda f, x: torch.func.vjp(f, x),
    lambda f, x: torch.func.vmap(f)(x[None]),
    lambda f, x: torch.func.jvp(f, (x,), (x,)),
], ids=["grad", "vjp", "vmap", "jvp"])
def test_torch_func_is_refused(transform):
    layer = SyncBatchNorm(2)
    with pytest.raises(RuntimeError, match="does not work under torch.func"):
        transform(layer, torch.randn(5, 2))
    assert layer.num_batches_tracked == 0


# On two ranks, against a graph of torch's own operations over the whole batch. Each rank's weight and bias are taken
# for its own, since its gradients are.

SIZES = (2, 3)


def penalty_terms():
    generator = torch.Generator().manual_seed(5)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {"x": randn(5, 3, 2, 2), "dy": randn(5, 3, 2, 2), "u": randn(5, 3, 2, 2), "weight": randn(3), "bias": randn(3),
            "v": randn(2, 3), "z": randn(2, 3)}


def doubly_differentiated(rank, by):
    terms = penalty_terms()
    part = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    layer = SyncBatchNorm(3, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(terms["weight"]), layer.bias.copy_(terms["bias"])
    x = terms["x"][part].requires_grad_()
    dy = terms["dy"][part].requires_grad_()
    y = getattr(layer, by)(x, None)
    gradients = grad(y, (x, layer.weight, layer.bias), dy, create_graph=True)
    return grad(gradients, (x, dy, layer.weight), (terms["u"][part], terms["v"][rank], terms["z"][rank]))


def in_one_graph():
    terms = penalty_terms()
    x, dy = terms["x"].requires_grad_(), terms["dy"].requires_grad_()
    weights = [terms["weight"].clone().requires_grad_() for _ in SIZES]
    biases = [terms["bias"].clone().requires_grad_() for _ in SIZES]
    weight = torch.cat([w.expand(n, 3) for w, n in zip(weights, SIZES)])[:, :, None, None]
    bias = torch.cat([b.expand(n, 3) for b, n in zip(biases, SIZES)])[:, :, None, None]
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    y = (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias
    gradients = grad(y, (x, *weights, *biases), dy, create_graph=True)
    return grad(gradients, (x, dy, *weights), (terms["u"], *terms["v"], *terms["z"]))


@pytest.mark.parametrize("by", ["forward", "_forward_by_operators"])
def test_double_backward_on_two_uneven_ranks(two_ranks, by):
    d_x, d_dy, *d_weights = in_one_graph()
    ranks = two_ranks(doubly_differentiated, by)
    assert torch.allclose(torch.cat([r[0] for r in ranks]), d_x, rtol=0, atol=1e-12)
    assert torch.allclose(torch.cat([r[1] for r in ranks]), d_dy, rtol=0, atol=1e-12)
    for rank, d_weight in zip(ranks, d_weights):
        assert torch.allclose(rank[2], d_weight, rtol=0, atol=1e-12)


def gradient_penalty(rank):
    """The usual penalty on the norm of the gradient of the input."""
    layer = SyncBatchNorm(3)
    x = torch.randn(4, 3, requires_grad=True)
    g, = grad((layer(x) ** 2).sum(), x, create_graph=True)
    (g ** 2).sum().backward()
    return torch.isfinite(x.grad).all().item() and layer.weight.grad is not None


def test_gradient_penalty_on_two_ranks(two_ranks):
    assert two_ranks(gradient_penalty) == [True, True]
