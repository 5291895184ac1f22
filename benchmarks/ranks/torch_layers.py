# SPDX-License-Identifier: Apache-2.0

"""A step (forward and backward) of one layer on each rank of a job, one thread a rank: syncbn.torch in shared memory and
over torch.distributed, a plain layer over torch.distributed, and BatchNorm2d, which synchronizes nothing.

usage: torch_layers.py SHAPE..., such as 2,512,7,7
"""

import math
import sys

import peers
import torch
import torch.distributed as dist
from syncbn.torch import SyncBatchNorm
from torch import nn

ROUNDS = 9
ELEMENTS = 1 << 21  # of all calls in a round


def step(layer, shape):
    x = torch.randn(shape, requires_grad=True)
    dy = torch.randn(shape)
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), wanted, dy)


def main():
    peers.join()
    connections = dist.new_group()
    for text in sys.argv[1:]:
        shape = tuple(map(int, text.split(",")))
        calls = min(20, math.ceil(ELEMENTS / math.prod(shape)))
        layers = {
            "syncbn": SyncBatchNorm(shape[1]),
            "syncbn, connections": SyncBatchNorm(shape[1], process_group=connections),
            "plain": peers.PlainSyncBatchNorm(shape[1]),
            "unsynchronized": nn.BatchNorm2d(shape[1]),
        }
        steps = {name: step(layer, shape) for name, layer in layers.items()}
        peers.without_shared_memory(steps["syncbn, connections"])
        peers.compare({"suite": "layer", "shape": shape}, steps, ROUNDS, calls)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
