# SPDX-License-Identifier: Apache-2.0

"""Memory orders: no copy of a dense tensor, one of any other."""

import pathlib
import re

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from syncbn.torch import SyncBatchNorm, _core_calls

DENSE = {
    "channels first": lambda: torch.randn(4, 3, 5, 6),
    "channels last": lambda: torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last),
    "channels last, 3-D": lambda: torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "channels last of one dimension": lambda: torch.randn(4, 5, 3).transpose(1, 2),
    "one sample": lambda: torch.randn(1, 3, 5, 6).to(memory_format=torch.channels_last),
    "one position": lambda: torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
    "two dimensions": lambda: torch.randn(4, 3),
}
OTHERS = {
    "every second": lambda: torch.randn(4, 3, 5, 12)[..., ::2],
    "permuted": lambda: torch.randn(5, 6, 3, 4).permute(3, 2, 0, 1),
    "some channels": lambda: torch.randn(4, 6, 5, 6)[:, ::2],
    "expanded": lambda: torch.randn(1, 3, 5, 6).expand(4, 3, 5, 6),
    "transposed": lambda: torch.randn(3, 4).t(),
    "negative": lambda: torch._neg_view(torch.randn(4, 3, 5)),
    "imaginary": lambda: torch.randn(4, 3, 5, dtype=torch.complex64).conj().imag,
}


def step(x, dy):
    layer = SyncBatchNorm(3)
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    y.backward(dy)
    return y, leaf.grad, layer.weight.grad, layer.running_var


@pytest.mark.parametrize("x", DENSE.values(), ids=DENSE)
def test_dense_tensors_are_worked_on_where_they_are(x, monkeypatch):
    x = x()
    seen = []
    for name in ("forward", "backward"):
        method = getattr(_core_calls._core.FrameworkLayer, name)
        monkeypatch.setattr(_core_calls._core.FrameworkLayer, name,
                            lambda core, method=method, **tensors: (seen.extend(tensors.values()),
                                                                    method(core, **tensors))[1])
    dy = torch.empty_like(x).normal_()
    y, dx, *_ = step(x, dy)
    assert {x.data_ptr(), y.data_ptr(), dy.data_ptr(), dx.data_ptr()} <= set(a for a in seen if isinstance(a, int))
    assert y.stride() == x.stride()
    assert dx.stride() == x.stride()


@pytest.mark.parametrize("x", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("dy", ["like x", "contiguous", "channels last", "expanded"])
def test_other_strides_have_the_same_bits(x, dy):
    x = x()
    value = torch.randn(x.shape)
    gradient = {"like x": lambda: torch.empty_strided(x.shape, x.stride()).copy_(value) if 0 not in x.stride() else value,
                "contiguous": lambda: value,
                "channels last": lambda: value.movedim(1, -1).contiguous().movedim(-1, 1),
                "expanded": lambda: torch.ones(()).expand(x.shape)}[dy]()
    for one, other in zip(step(x, gradient), step(x.contiguous().resolve_neg(), gradient.contiguous())):
        assert torch.equal(one, other)


@pytest.mark.parametrize("x", DENSE.values(), ids=DENSE)
def test_gradients_of_sums_come_expanded(x):
    x = x()
    layer, reference = SyncBatchNorm(3), SyncBatchNorm(3)
    a, b = x.detach().requires_grad_(), x.detach().requires_grad_()
    layer(a).sum().backward()
    reference(b).backward(torch.ones_like(x))
    assert torch.equal(a.grad, b.grad) and torch.equal(layer.bias.grad, reference.bias.grad)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_memory_orders_have_the_same_bits(order):
    x, dy = torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
    for one, other in zip(step(x.to(memory_format=order), dy.to(memory_format=order)), step(x, dy)):
        assert torch.equal(one, other)


def resident_peak(body):
    """Bytes by which body() raises the process's peak of resident memory."""
    def read(key):
        with open("/proc/self/status") as status:
            return int(re.search(rf"{key}:\s+(\d+)", status.read())[1]) * 1024

    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = read("VmRSS")
    result = body()
    return read("VmHWM") - before, result


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_peak_memory_is_the_results(order):
    x = torch.randn(8, 64, 128, 128).to(memory_format=order).requires_grad_()  # 32 MB
    dy = torch.randn(8, 64, 128, 128).to(memory_format=order)
    size = x.numel() * 4
    layer = SyncBatchNorm(64)
    layer(torch.randn(2, 64))  # what the process loads once
    forward, y = resident_peak(lambda: layer(x))
    assert forward < 1.25 * size
    backward, _ = resident_peak(lambda: y.backward(dy))
    assert backward < 1.25 * size
    # The control: a tensor in another order costs one copy more, and is seen.
    strided = torch.randn(8, 64, 128, 256)[..., ::2]
    with torch.no_grad():
        assert resident_peak(lambda: layer(strided))[0] > 1.75 * size


def test_allocations_are_the_results():
    x = torch.randn(8, 16, 32, 32, requires_grad=True)
    layer = SyncBatchNorm(16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        layer(x).backward(torch.ones_like(x))
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profiler.key_averages())
    # y, dy, dx; the rest are values per channel.
    assert 3 * x.numel() * 4 <= allocated < 3 * x.numel() * 4 + 16 * 1024


def asks_for_huge_pages(tensor):
    """Whether the mapping that has the middle of the tensor's memory is marked for huge pages."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    here = False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = int(bounds[1], 16) <= middle < int(bounds[2], 16)
        elif here and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError(f"no mapping has address {middle:x}")


@pytest.mark.skipif(not pathlib.Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages")
def test_large_outputs_ask_for_huge_pages(monkeypatch):
    layer = SyncBatchNorm(4)
    x = torch.ones(4, 4, 1 << 19).requires_grad_()  # 32 MiB
    y = layer(x)
    assert asks_for_huge_pages(y)
    y.backward(x.detach())
    assert asks_for_huge_pages(x.grad)
    assert not asks_for_huge_pages(x.detach()), "torch's own tensor"

    monkeypatch.setattr(_core_calls, "_HUGE_PAGES_FROM", 1 << 40)
    assert not asks_for_huge_pages(layer(x)), "the control"
