# SPDX-License-Identifier: Apache-2.0

"""Recomputation moves running statistics and counter once."""

import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from syncbn.torch import SyncBatchNorm


class Checkpointed(nn.Module):
    """`how`: use_reentrant, or None for no checkpoint."""

    def __init__(self, how, nested=False):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), SyncBatchNorm(4, name="a"), nn.ReLU(), nn.Conv2d(4, 4, 1),
                                  SyncBatchNorm(4, momentum=None, name="b"))
        self.how, self.nested = how, nested

    def forward(self, x):
        if self.how is None:
            return self.body(x)
        if self.nested:
            return checkpoint(lambda x: checkpoint(self.body, x, use_reentrant=self.how), x, use_reentrant=self.how)
        return checkpoint(self.body, x, use_reentrant=self.how)


def assert_same(model, reference):
    for (name, ours), theirs in zip(model.state_dict().items(), reference.state_dict().values()):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        assert torch.equal(ours.grad, theirs.grad)


BACKWARDS = {
    "backward": lambda loss, x, parameters: loss.backward(),
    "another thread": lambda loss, x, parameters: run_in_thread(loss.backward),
    "twice": lambda loss, x, parameters: (loss.backward(retain_graph=True), [p.grad.zero_() for p in parameters],
                                          loss.backward()),
}


def run_in_thread(body):
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("backward", BACKWARDS.values(), ids=BACKWARDS)
@pytest.mark.parametrize("how", [False, True], ids=["not reentrant", "reentrant"])
def test_statistics_move_once(how, backward, nested):
    model, reference = Checkpointed(how, nested), Checkpointed(None)
    for step in range(2):
        x = torch.randn(4, 3, 5, 5)
        for net in (model, reference):
            leaf = x.clone().requires_grad_()
            backward(net(leaf).pow(2).sum(), leaf, list(net.parameters()))
        assert_same(model, reference)
        assert model.body[1].num_batches_tracked == step + 1


def test_gradients_by_autograd_grad():
    model, reference = Checkpointed(False), Checkpointed(None)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    for ours, theirs in zip(*(torch.autograd.grad(net(x).pow(2).sum(), (x, *net.parameters()))
                              for net in (model, reference))):
        assert torch.equal(ours, theirs)
    assert model.body[1].num_batches_tracked == 1


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="torch 2.4 does not show its hooks")
def test_a_tensor_asked_for_outside_of_a_backward():
    model = Checkpointed(False)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    y = checkpoint(lambda x: model.body(x).exp(), x, use_reentrant=False)
    y.grad_fn._saved_result
    assert model.body[1].num_batches_tracked == 1


def test_a_forward_under_other_hooks_is_a_forward():
    layer = SyncBatchNorm(3)
    with torch.autograd.graph.save_on_cpu():
        layer(torch.randn(4, 3, requires_grad=True)).sum().backward()
    assert layer.num_batches_tracked == 1


def distributed(rank, how, static):
    results = []
    for way in (how, None):
        model = DistributedDataParallel(Checkpointed(way), static_graph=static)
        torch.manual_seed(rank)
        for _ in range(2):
            model(torch.randn(2 + rank, 3, 5, 5, requires_grad=True)).pow(2).sum().backward()
        results.append((model.module.state_dict(), [p.grad for p in model.parameters()]))
    return results


@pytest.mark.parametrize("how,static", [(False, False), (True, True)], ids=["not reentrant", "reentrant"])
def test_on_two_ranks(two_ranks, how, static):
    for (state, gradients), (reference, reference_gradients) in two_ranks(distributed, how, static):
        for name, value in reference.items():
            assert torch.equal(state[name], value), name
        assert all(torch.equal(a, b) for a, b in zip(gradients, reference_gradients))


@pytest.mark.parametrize("how", [False, True], ids=["not reentrant", "reentrant"])
def test_under_compile(how):
    torch._dynamo.reset()
    model, reference = Checkpointed(how), Checkpointed(None)
    compiled = torch.compile(model, fullgraph=not how, backend="aot_eager")
    x = torch.randn(4, 3, 5, 5)
    for net in (compiled, reference):
        net(x.clone().requires_grad_()).pow(2).sum().backward()
    assert_same(model, reference)
    assert model.body[1].num_batches_tracked == 1
