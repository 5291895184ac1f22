# SPDX-License-Identifier: Apache-2.0

"""Forward and backward by two ranks against torch's batch norm on the whole batch, for all that a layer can be given. The
cases share one job: what costs is the start."""

import copy
import pickle

import pytest
import torch
from torch import nn

from syncbn.torch import SyncBatchNorm, convert_sync_batchnorm

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 6e-2, torch.float16: 1e-2}

#: name: (shape of the whole batch, samples on rank 0, options of the layer, dtype of the input, memory order)
CASES = {
    "2-D": ((6, 4), 3, {}, torch.float32, "first"),
    "3-D": ((6, 4, 5), 2, {}, torch.float32, "first"),
    "4-D": ((6, 4, 3, 5), 2, {}, torch.float32, "first"),
    "channels_last": ((6, 4, 3, 5), 2, {}, torch.float32, "last"),
    "channels_last_3d": ((6, 4, 3, 2, 5), 2, {}, torch.float32, "last"),
    "one sample a rank": ((2, 4), 1, {}, torch.float32, "first"),
    "one position a rank": ((2, 4, 1, 1), 1, {}, torch.float32, "last"),
    "empty first": ((6, 4, 3), 0, {}, torch.float32, "first"),
    "empty last": ((6, 4, 3), 6, {}, torch.float32, "first"),
    "affine=False": ((6, 4, 3), 2, {"affine": False}, torch.float32, "first"),
    "momentum=None": ((6, 4, 3), 2, {"momentum": None}, torch.float32, "first"),
    "no running statistics": ((6, 4, 3), 2, {"track_running_stats": False}, torch.float32, "first"),
    "double": ((6, 4, 3), 2, {"dtype": torch.float64}, torch.float64, "first"),
    "bfloat16 in, float32 parameters": ((6, 4, 3), 2, {}, torch.bfloat16, "first"),
    "float16 in, float32 parameters": ((6, 4, 3), 2, {}, torch.float16, "first"),
}


def problem(name):
    shape, _, options, dtype, order = CASES[name]
    generator = torch.Generator().manual_seed(7)
    x, dy = ((torch.randn(shape, generator=generator) * 2 + 1).to(dtype) for _ in range(2))
    if order == "last":
        x, dy = (t.to(memory_format=LAST[t.dim()]) for t in (x, dy))
    return x, dy, options


def prepared(layer):
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def steps(layer, x, dy):
    """Two of them, since the cumulative average begins with the second; then an evaluation."""
    for _ in range(2):
        layer.zero_grad()
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        y.backward(dy)
    layer.eval()
    return {"y": y.detach(), "dx": leaf.grad, "evaluation": layer(x).detach()}, \
        {name: p.grad for name, p in layer.named_parameters()}, layer.state_dict()


def all_cases(rank, synchronized):
    results = {}
    for name, (_, cut, *_) in CASES.items():
        x, dy, options = problem(name)
        part = slice(0, cut) if rank == 0 else slice(cut, None)
        layer = prepared(SyncBatchNorm(4, **options) if synchronized else nn.BatchNorm3d(4, **options))
        if not synchronized:
            layer._check_input_dim = lambda input: None
        try:
            results[name] = steps(layer, x[part], dy[part])
        except ValueError as error:  # torch's, of one sample
            results[name] = error
    return results


def reference(name):
    x, dy, options = problem(name)
    layer = prepared(nn.BatchNorm1d(4, **options))
    layer._check_input_dim = lambda input: None
    return steps(layer, x, dy)


def far(ours, theirs, dtype):
    return (ours.double() - theirs.double()).abs().max().item() > CLOSE[dtype] * max(1, theirs.abs().max().item())


def differences(ranks, name):
    """What differs from torch's layer on the whole batch."""
    tensors, gradients, state = reference(name)
    dtype = CASES[name][3]
    seen = [r[name] for r in ranks]
    if any(isinstance(result, Exception) for result in seen):
        return ["error"]
    found = [key for key, value in tensors.items()
             if (key != "evaluation" or state.get("running_mean") is not None)
             and far(torch.cat([s[0][key] for s in seen]), value, dtype)]
    found += [key for key, value in gradients.items() if far(sum(s[1][key] for s in seen), value, dtype)]
    found += [key for key, value in state.items() for s in seen if far(s[2][key], value, dtype)]
    return found


@pytest.fixture(scope="module")
def synchronized(two_ranks):
    return two_ranks(all_cases, True)


@pytest.mark.parametrize("name", CASES)
def test_case(synchronized, name):
    assert differences(synchronized, name) == []


def test_without_synchronization_every_case_differs(two_ranks):
    local = two_ranks(all_cases, False)
    same = {name for name in CASES if not differences(local, name)}
    assert same == set(), same


def all_empty(rank):
    layer = SyncBatchNorm(4)
    x = torch.randn(0, 4, 3, requires_grad=True)
    layer(x).sum().backward()
    y = layer(torch.randn(2, 4, 3))
    return layer.num_batches_tracked.item(), x.grad.shape, torch.isfinite(y).all().item()


def test_all_ranks_empty(two_ranks):
    assert two_ranks(all_empty) == [(1, (0, 4, 3), True)] * 2


def without_gradient(rank):
    """Rank 0 brings nothing, and its input needs no gradient."""
    layer = SyncBatchNorm(4)
    x = torch.randn(0 if rank == 0 else 5, 4, requires_grad=rank == 1)
    layer(x).pow(2).sum().backward()
    with torch.no_grad():
        layer(x.detach())
    return layer.weight.grad, layer.num_batches_tracked.item()


def test_an_empty_share_without_gradient(two_ranks):
    (empty, batches), (full, _) = two_ranks(without_gradient)
    assert empty.eq(0).all() and full.ne(0).any() and batches == 2


def evaluated(rank):
    layer = SyncBatchNorm(4)
    layer(torch.randn(3, 4))
    layer.eval()
    if rank == 0:  # alone
        x = torch.randn(3, 4, requires_grad=True)
        layer(x).pow(2).sum().backward()
        return torch.isfinite(x.grad).all().item()


def test_evaluation_sends_nothing(two_ranks):
    assert two_ranks(evaluated)[0]


def subgroups(rank):
    import torch.distributed as dist
    groups = [dist.new_group([0, 1]), dist.new_group([1]), dist.new_group([0])]
    x = torch.randn(3 + rank, 4, generator=torch.Generator().manual_seed(rank))
    together = SyncBatchNorm(4, process_group=groups[0])
    alone = convert_sync_batchnorm(nn.BatchNorm1d(4), groups[1] if rank == 1 else groups[2])
    copies = copy.deepcopy(together), pickle.loads(pickle.dumps(together))  # which a ProcessGroup does not stand
    same = [layer.process_group is groups[0] for layer in (together, *copies)]
    return together(x).detach(), alone(x).detach(), [torch.equal(c(x), c(x)) for c in copies] + same


def test_groups_of_some_ranks(two_ranks):
    parts = [torch.randn(3 + rank, 4, generator=torch.Generator().manual_seed(rank)) for rank in range(2)]
    ranks = two_ranks(subgroups)
    assert torch.allclose(torch.cat([r[0] for r in ranks]), nn.BatchNorm1d(4)(torch.cat(parts)), atol=1e-5)
    for (_, alone, same), part in zip(ranks, parts):
        assert torch.allclose(alone, nn.BatchNorm1d(4)(part), atol=1e-5) and all(same)
