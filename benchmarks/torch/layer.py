# SPDX-License-Identifier: Apache-2.0

"""syncbn.torch.SyncBatchNorm and torch.nn.BatchNorm in one process, interleaved: a line of JSON a comparison, as the
programs in benchmarks/layer print.

    PYTHONPATH=build/release/python .venv/bin/python benchmarks/torch/layer.py [--quick]

Training, all cores; float32, and some shapes in the other dtypes. forward: the call alone, with what it keeps for a backward; backward: autograd.grad of its
result, of a graph that is kept; step: both. `compiled`: both layers under torch.compile. --quick: few shapes and repeats.
"""

import argparse
import ctypes
import json
import time

import syncbn
import torch
from syncbn.torch import SyncBatchNorm
from torch import nn

LARGE = ((32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 1024, 14, 14))
SMALL = ((32, 2048, 7, 7), (4, 64, 56, 56), (8, 32, 32, 32), (4, 512, 7, 7), (256, 1024), (64, 128), (2, 2, 2, 2))
ORDERS = {"channels-first": torch.contiguous_format, "channels-last": torch.channels_last}
SAMPLE = 10e-3  # seconds at least


def keep_freed_memory():
    """As in against_torch.cpp: else half of the time on large tensors is the kernel giving pages to new results."""
    m_trim_threshold, m_mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2047 << 20)


def seconds(call, count):
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def compare(about, contenders, repeats):
    counts = {}
    for name, call in contenders.items():
        seconds(call, 3)  # first calls allocate, compile and start threads
        counts[name] = max(1, int(SAMPLE / min(seconds(call, 1) for _ in range(3))))
    samples = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(repeats):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            seconds(contenders[name], 1)
            samples[name].append(seconds(contenders[name], counts[name]))
    print(json.dumps({"suite": "nn", "peer": "PyTorch " + torch.__version__.partition("+")[0], **about, "isa": syncbn.active_isa(), "threads": torch.get_num_threads(),
                      "seconds": samples}), flush=True)


def calls(layer, x, dy):
    wanted = [x, *layer.parameters()]
    y = layer(x)
    return {
        "forward": lambda: layer(x),
        "backward": lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True),
        "step": lambda: torch.autograd.grad(layer(x), wanted, dy),
    }


def measure(shape, layout, repeats, dtype=torch.float32, compiled=False):
    order = ORDERS[layout] if len(shape) == 4 else torch.contiguous_format
    x = torch.randn(shape, dtype=dtype).to(memory_format=order).requires_grad_()
    dy = torch.randn(shape, dtype=dtype).to(memory_format=order)
    layers = {"syncbn": SyncBatchNorm, "nn": nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d}
    layers = {name: make(shape[1], dtype=dtype) for name, make in layers.items()}
    if compiled:
        layers = {name: torch.compile(layer) for name, layer in layers.items()}
    contenders = {name: calls(layer, x, dy) for name, layer in layers.items()}
    about = {"shape": "(" + ",".join(map(str, shape)) + ")", "layout": layout, "dtype": str(dtype).split(".")[1],
             "data": "normal", "compiled": compiled}
    for direction in ("forward", "backward", "step"):
        compare({**about, "direction": direction}, {name: of[direction] for name, of in contenders.items()}, repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    keep_freed_memory()
    shapes = (LARGE[1], (4, 512, 7, 7), (2, 2, 2, 2)) if quick else LARGE + SMALL
    repeats = 5 if quick else 15
    for layout in ORDERS:
        for shape in shapes:
            measure(shape, layout, repeats)
        for dtype in (torch.bfloat16, torch.float16):
            for shape in (LARGE[1],) if quick else (LARGE[1], *SMALL):
                measure(shape, layout, repeats, dtype=dtype)
        measure((32, 256, 56, 56), layout, 3 if quick else 7, dtype=torch.float64)
    if not quick:
        measure((2, 2, 2, 2), "channels-first", repeats, compiled=True)


if __name__ == "__main__":
    main()
