# SPDX-License-Identifier: Apache-2.0

"""A whole training step of a ResNet-18 with DistributedDataParallel on each rank of a job, batch 4 and one thread a rank:
with syncbn.torch, the plain layer, BatchNorm2d, and no normalization at all. What a layer takes of the step is the
difference to the last."""

import peers
import torch
from syncbn.torch import SyncBatchNorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BATCH, CLASSES, ROUNDS = 4, 1000, 12


class Block(nn.Module):
    """Two convolutions and the way around them (He et al. 2016, figure 2)."""

    def __init__(self, channels, out, stride, norm):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), norm(out), nn.ReLU(inplace=True),
                                  nn.Conv2d(out, out, 3, 1, 1, bias=False), norm(out))
        self.around = nn.Identity()
        if stride != 1 or channels != out:
            self.around = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))

    def forward(self, x):
        return torch.relu(self.body(x) + self.around(x))


def resnet18(norm):
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        parts += [Block(channels, out, stride, norm), Block(out, out, 1, norm)]
        channels = out
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def step(norm, size):
    model = DistributedDataParallel(resnet18(norm))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, target = torch.randn(BATCH, 3, size, size), torch.randint(CLASSES, (BATCH,))

    def run():
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()

    return run


def main():
    peers.join()
    norms = {"syncbn": SyncBatchNorm, "plain": peers.PlainSyncBatchNorm, "unsynchronized": nn.BatchNorm2d,
             "no normalization": lambda channels: nn.Identity()}
    for size in (64, 112):
        steps = {name: step(norm, size) for name, norm in norms.items()}
        peers.compare({"suite": "resnet18", "shape": [BATCH, 3, size, size]}, steps, ROUNDS, warm_up=2)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
