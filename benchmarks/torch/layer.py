"""syncbn.torch.SyncBatchNorm against torch.nn.BatchNorm2d in one process: forward, and forward and backward.

    PYTHONPATH=build/release/python .venv/bin/python benchmarks/torch/layer.py [--quick]

Prints medians of interleaved rounds and their spread (median absolute deviation): calls of (2, 2, 2, 2), which are all
overhead, on one thread, and two shapes of networks in both memory orders on all threads. --quick: fewer rounds.
"""

import argparse
import os
import platform
import statistics
import time

import torch
from torch import nn

from syncbn.torch import SyncBatchNorm

ORDERS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def seconds(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compare(what, ours, theirs, rounds, budget):
    """`budget`: seconds of one round of one of the two."""
    repeats = max(1, int(budget / min(seconds(call, 3) for call in (ours, theirs))))
    times = {"ours": [], "theirs": []}
    for _ in range(rounds):
        times["ours"].append(seconds(ours, repeats))
        times["theirs"].append(seconds(theirs, repeats))
    medians = {who: statistics.median(values) for who, values in times.items()}
    spreads = {who: statistics.median(abs(v - medians[who]) for v in values) / medians[who] for who, values in times.items()}
    print(f"{what:60} {medians['ours'] * 1e6:10.1f} ±{spreads['ours']:4.0%} {medians['theirs'] * 1e6:10.1f} "
          f"±{spreads['theirs']:4.0%} {medians['ours'] / medians['theirs']:7.2f}", flush=True)


def step(layer, x, dy):
    parameters = [p for p in layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), [x, *parameters], dy)


def rows(shape, order, rounds, budget, compiled=False):
    x = torch.randn(shape).to(memory_format=ORDERS[order]).requires_grad_()
    dy = torch.randn(shape).to(memory_format=ORDERS[order])
    ours, theirs = SyncBatchNorm(shape[1]), nn.BatchNorm2d(shape[1])
    name = f"{shape} {order}" + (", compiled" if compiled else "")
    if compiled:
        ours, theirs = torch.compile(ours), torch.compile(theirs)
    compare(f"{name}, forward", lambda: ours(x), lambda: theirs(x), rounds, budget)
    compare(f"{name}, forward and backward", step(ours, x, dy), step(theirs, x, dy), rounds, budget)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds, budget = (5, 0.02) if options.quick else (15, 0.1)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, {platform.machine()}, {os.cpu_count()} cores; times in µs")
    print(f"{'':60} {'syncbn.torch':>16} {'BatchNorm2d':>16} {'ratio':>7}")
    torch.set_num_threads(1)
    rows((2, 2, 2, 2), "channels first", rounds, budget)
    if not options.quick:
        rows((2, 2, 2, 2), "channels first", rounds, budget, compiled=True)
    torch.set_num_threads(threads)
    for shape in ((4, 512, 7, 7), (32, 256, 56, 56)):
        for order in ORDERS:
            rows(shape, order, rounds, budget)


if __name__ == "__main__":
    main()
