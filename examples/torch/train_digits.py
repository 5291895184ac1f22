# SPDX-License-Identifier: Apache-2.0

"""Training on handwritten digits at 2 samples per rank: synchronized against local statistics.

    torchrun --nproc-per-node=2 examples/torch/train_digits.py
    syncbn-run --worker_num=2 --local_worker_num=2 --join=True examples/torch/train_digits.py

DistributedDataParallel on every rank, scikit-learn's digits, the same network twice: with syncbn.torch.SyncBatchNorm,
whose statistics are of the batch of all ranks, and with torch.nn.BatchNorm, whose statistics are a rank's own. Rank 0
prints a table and saves a plot of loss and accuracy. Needs scikit-learn, matplotlib and tqdm.
"""

import argparse
import json
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from syncbn.torch import convert_sync_batchnorm

TEST_IMAGES = 297


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def digits():
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    labels = torch.tensor(labels)
    return (images[:-TEST_IMAGES], labels[:-TEST_IMAGES]), (images[-TEST_IMAGES:], labels[-TEST_IMAGES:])


def train(name, model, options):
    """Mean loss of the training batches and test accuracy, by epoch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    (images, labels), test = digits()
    images, labels = images[:options.images], labels[:options.images]
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.rate, momentum=0.9)
    together = options.batch * ranks
    steps = len(labels) // together
    losses, accuracies = [], []
    bar = tqdm(total=options.epochs * steps, desc=name, disable=rank != 0 or None)  # None: only on a terminal
    for epoch in range(options.epochs):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        total = torch.zeros(())
        parallel.train()
        for step in range(steps):
            batch = order[step * together:(step + 1) * together][rank::ranks]
            loss = nn.functional.cross_entropy(parallel(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
            bar.update()
        dist.all_reduce(total)
        losses.append(total.item() / (steps * ranks))
        model.eval()
        with torch.no_grad():
            accuracies.append((model(test[0]).argmax(1) == test[1]).float().mean().item())
    bar.close()
    return {"loss": losses, "accuracy": accuracies}


def plot(results, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    for axis, quantity in zip(axes, ("loss", "accuracy")):
        for name, result in results.items():
            axis.plot(range(1, len(result[quantity]) + 1), result[quantity], marker="o", label=name)
        axis.set(xlabel="epoch", ylabel={"loss": "training loss", "accuracy": "test accuracy"}[quantity])
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2, help="samples per rank")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--images", type=int, default=1500, help="how many to train on")
    parser.add_argument("--plot", default="train_digits.png", help="where rank 0 saves the plot; empty: nowhere")
    parser.add_argument("--json", default="", help="where rank 0 saves the numbers")
    options = parser.parse_args()

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {"synchronized": train("synchronized", convert_sync_batchnorm(network(options.seed)), options),
               "local": train("local", network(options.seed), options)}
    if dist.get_rank() == 0:
        print("epoch  " + "  ".join(f"{name + ': loss, accuracy':>30}" for name in results))
        for epoch in range(options.epochs):
            row = (f"{r['loss'][epoch]:20.4f} {r['accuracy'][epoch]:9.1%}" for r in results.values())
            print(f"{epoch + 1:5}  " + "  ".join(row))
        if options.plot:
            plot(results, options.plot)
            print(f"saved {os.path.abspath(options.plot)}")
        if options.json:
            with open(options.json, "w") as file:
                json.dump(results, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
