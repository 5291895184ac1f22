# SPDX-License-Identifier: Apache-2.0

"""Networks and batches that several tests share, in float64.

The convolutions of torch round differently on each processor, and differently for each share of a batch. In float32 the
roundings differ by 1e-7. Such a difference may turn a ReLU on or off, and a few steps later it exceeds any bound on some
machine. In float64 the roundings differ by 1e-16, which turns no ReLU among 20,000 elements.
"""

import torch
from torch import nn

#: Bound for the distance of two trainings that differ in roundings only. The distance is 2e-15 then. With local statistics
#: the distance is over 0.1.
CLOSE = 1e-10


def convolutional(norm):
    """A small network with three norms; `norm(channels)` makes one."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False), norm(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 6), norm(6), nn.Linear(6, 5)).double()


def plain_convolutional():
    """The same with the norms of torch."""
    norms = iter((nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d))
    return convolutional(lambda channels: next(norms)(channels))


def batches(count, samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(samples, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return [(draw(3, 8, 8) * 2 + 1, draw(5)) for _ in range(count)]


def train(model, parts, samples_of_all, ranks=1, rate=0.05, state=None):
    """SGD steps on this rank's parts of the batches. The loss of each is its part of the whole batch's mean, times the
    number of ranks, since DistributedDataParallel takes the mean of the ranks' gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    if state is not None:
        optimizer.load_state_dict(state)
    for x, target in parts:
        optimizer.zero_grad()
        loss = ((model(x) - target) ** 2).sum() * ranks / (samples_of_all * target.shape[1])
        loss.backward()
        optimizer.step()
    return optimizer


def distance(state, reference):
    """Largest difference between two state_dicts, relative to the size of each entry."""
    return max(((state[key] - value).abs().max() / (1e-2 + value.abs().max())).item()
               for key, value in reference.items())
