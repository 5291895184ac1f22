# SPDX-License-Identifier: Apache-2.0

"""A generative adversarial network with a gradient penalty: the layer is differentiated twice, over all ranks.

    torchrun --nproc-per-node=2 examples/torch/gan.py
    syncbn-run -n 2 --join=True examples/torch/gan.py

The generator learns to draw points near a circle, from sixteen real points a rank and step. Both networks have batch
normalization. The discriminator's loss contains the squared gradient of its output with respect to the real points (R1 of
Mescheder, Geiger and Nowozin, 2018), so its parameters get a gradient of a gradient. Through synchronized layers both
gradients are those of the batch of all ranks. Rank 0 prints a table and saves a plot, for synchronized and for local
statistics. Needs matplotlib and tqdm.
"""

import argparse
import json
import math
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import softplus
from tqdm import tqdm

from syncbn.torch import convert_sync_batchnorm

SPREAD, NOISE, SECTORS = 0.05, 8, 16  # of the real points around the circle; inputs of the generator; parts of the circle


def draw(seed, count):
    """Real points (count, 2) and the generator's inputs (count, NOISE)."""
    random = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(count, generator=random)
    points = torch.stack([angle.cos(), angle.sin()], 1) + SPREAD * torch.randn(count, 2, generator=random)
    return points, torch.randn(count, NOISE, generator=random)


def network(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 64, bias=False), nn.BatchNorm1d(64), nn.LeakyReLU(0.2),
                         nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.LeakyReLU(0.2), nn.Linear(64, outputs))


def networks(seed):
    torch.manual_seed(seed)
    return nn.ModuleDict({"generator": network(NOISE, 2), "discriminator": network(2, 1)})


def average_gradients(model):
    """As DistributedDataParallel does, which is not made for torch.autograd.grad."""
    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, averaged in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(averaged.view_as(gradient))


def train(name, model, options):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator, discriminator = model["generator"], model["discriminator"]
    optimizers = {part: torch.optim.Adam(part.parameters(), betas=(0.5, 0.99)) for part in model.values()}

    def descend(part, loss, rate):
        optimizers[part].param_groups[0]["lr"] = rate
        optimizers[part].zero_grad()
        loss.backward()
        average_gradients(part)
        optimizers[part].step()

    def judge(real, fake):  # in one batch: each half normalized for itself would hide how they differ
        return discriminator(torch.cat([real, fake])).chunk(2)

    for step in tqdm(range(options.steps), desc=name, disable=rank != 0 or None):  # None: only on a terminal
        rate = options.rate * (1 - step / options.steps)
        real, noise = (part[rank::ranks] for part in draw(step, options.batch * ranks))
        real.requires_grad_()
        fake = generator(noise)
        on_real, on_fake = judge(real, fake.detach())
        slope, = torch.autograd.grad(on_real.sum(), real, create_graph=True)  # of the sum over all ranks
        penalty = slope.square().sum(1).mean()
        descend(discriminator, softplus(-on_real).mean() + softplus(on_fake).mean() + options.penalty / 2 * penalty, rate)
        descend(generator, softplus(-judge(real.detach(), fake)[1]).mean(), rate)


def generate(generator, count=2000):
    generator.eval()
    with torch.no_grad():
        return generator(draw(-1 % 2**32, count)[1])


def quality(points):
    """Share of the points near the circle, and in how many sectors of it there are at least a quarter as many as expected."""
    near = points[(points.norm(dim=1) - 1).abs() < 4 * SPREAD]
    sector = (torch.atan2(near[:, 1], near[:, 0]) / (2 * math.pi) * SECTORS).floor().long() % SECTORS
    counts = torch.bincount(sector, minlength=SECTORS)
    return {"near": len(near) / len(points), "sectors": int((counts >= len(points) / SECTORS / 4).sum())}


def plot(points, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(points), figsize=(3.5 * len(points), 3.7), layout="constrained")
    for axis, (name, xy) in zip(axes, points.items()):
        axis.plot(*xy.T, ".", markersize=2)
        axis.set(title=name, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16, help="points per rank")
    parser.add_argument("--rate", type=float, default=2e-3, help="first learning rate; it falls to 0")
    parser.add_argument("--penalty", type=float, default=1.0, help="weight of the gradient penalty")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--plot", default="gan.png", help="where rank 0 saves the plot; empty: nowhere")
    parser.add_argument("--json", default="", help="where rank 0 saves the numbers")
    options = parser.parse_args()

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    models = {"synchronized": convert_sync_batchnorm(networks(options.seed)), "local": networks(options.seed)}
    for name, model in models.items():
        train(name, model, options)
    if dist.get_rank() == 0:
        points = {"real": draw(-1 % 2**32, 2000)[0], **{name: generate(model["generator"]) for name, model in models.items()}}
        results = {name: quality(points[name]) for name in models}
        print(f"{'statistics':14}{'points near the circle':>24}{'sectors reached':>18}")
        for name, result in results.items():
            print(f"{name:14}{result['near']:24.1%}{result['sectors']:12} of {SECTORS}")
        if options.plot:
            plot(points, options.plot)
            print(f"saved {os.path.abspath(options.plot)}")
        if options.json:
            with open(options.json, "w") as file:
                json.dump(results, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
