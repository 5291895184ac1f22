# SPDX-License-Identifier: Apache-2.0

"""Layers that syncbn.torch is compared with, and what the programs on several ranks share."""

import json
import os
import time

import torch
import torch.distributed as dist
from torch import nn


class _SumOfRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, dy):
        dy = dy.clone()
        dist.all_reduce(dy)
        return dy


class PlainSyncBatchNorm(nn.BatchNorm2d):
    """Synchronized batch norm as programs write it by hand: means of x and x² in one all_reduce each way, float32 sums."""

    def forward(self, x):
        moments = torch.cat([x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))])
        mean, square = (_SumOfRanks.apply(moments) / dist.get_world_size()).chunk(2)
        var = square - mean * mean
        with torch.no_grad():
            n = x.numel() / x.shape[1] * dist.get_world_size()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(var + self.eps)
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def join():
    """This process as a rank of a job that syncbn-run has started, with one thread."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")


def compare(about, contenders, rounds, calls=1, warm_up=3):
    """Runs the contenders in turn, all ranks together, and prints a line of JSON: each round's seconds a call.

    A round's time is that of the slowest rank.
    """
    names = list(contenders)
    samples = torch.zeros(len(names), rounds, dtype=torch.float64)
    for call in contenders.values():
        for _ in range(warm_up):
            call()
    for turn in range(rounds):
        for i in range(len(names)):
            which = (turn + i) % len(names)
            call = contenders[names[which]]
            dist.barrier()
            call()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            samples[which, turn] = (time.perf_counter() - start) / calls
    dist.all_reduce(samples, dist.ReduceOp.MAX)
    if dist.get_rank() == 0:
        seconds = {name: of.tolist() for name, of in zip(names, samples)}
        print(json.dumps({**about, "ranks": dist.get_world_size(), "seconds": seconds}), flush=True)


def without_shared_memory(make):
    """What `make` returns, made with SYNCBN_SHARED_MEMORY=0."""
    os.environ["SYNCBN_SHARED_MEMORY"] = "0"
    try:
        return make()
    finally:
        del os.environ["SYNCBN_SHARED_MEMORY"]
