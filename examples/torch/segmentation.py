# SPDX-License-Identifier: Apache-2.0

"""Segmentation with one image a rank: synchronized against local statistics.

    torchrun --nproc-per-node=4 examples/torch/segmentation.py
    syncbn-run -n 4 --join=True examples/torch/segmentation.py

The program draws the images: discs and squares on an empty ground, with noise. All shapes of an image are dim, or all are
bright. The network says for each pixel whether it is ground, a dim shape or a bright one. Batch normalization with the
statistics of a single image divides its brightness out, so that dim and bright look the same. With the statistics of all ranks'
images they differ. Rank 0 prints a table and saves a picture. Needs matplotlib and tqdm.
"""

import argparse
import json
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from syncbn.torch import convert_sync_batchnorm

SIZE, CLASSES = 32, 3  # pixels of a side; ground, dim shape, bright shape
BRIGHTNESS = (1.0, 3.0)
TEST_IMAGES = range(-64, 0)


def draw(numbers):
    """The images with these numbers (N, 1, SIZE, SIZE), and the class of each pixel. An image depends on its number alone."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images, labels = [], []
    for number in numbers:
        random = torch.Generator().manual_seed(number % 2**32)
        bright = int(torch.randint(2, (), generator=random))
        shape = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for _ in range(3):
            row, column, half = (int(torch.randint(*bounds, (), generator=random)) for bounds in ((SIZE,), (SIZE,), (3, 7)))
            down, right = rows - row, columns - column
            square = bool(torch.randint(2, (), generator=random))
            shape |= (down.abs().maximum(right.abs()) if square else (down**2 + right**2).sqrt()) < half
        images.append(BRIGHTNESS[bright] * (shape + 0.2 * torch.randn(SIZE, SIZE, generator=random)))
        labels.append(shape * (1 + bright))
    return torch.stack(images)[:, None], torch.stack(labels)


def network(seed):
    torch.manual_seed(seed)
    layers, channels = [], 1
    for _ in range(3):
        layers += [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        channels = 16
    return nn.Sequential(*layers, nn.Conv2d(channels, CLASSES, 1))


def train(name, model, options):
    """The loss of each step, a mean over the ranks."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.rate, momentum=0.9)
    losses = torch.zeros(options.steps, dtype=torch.float64)
    for step in tqdm(range(options.steps), desc=name, disable=rank != 0 or None):  # None: only on a terminal
        first = (step * ranks + rank) * options.batch
        images, labels = draw(range(first, first + options.batch))
        loss = nn.functional.cross_entropy(parallel(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach() / ranks
    dist.all_reduce(losses)
    return losses.tolist()


def predict(model, images):
    model.eval()
    with torch.no_grad():
        return model(images).argmax(1)


def mean_iou(found, labels):
    """Intersection over union of the pixels found and the pixels there, the mean over the classes."""
    pairs = [(found == k, labels == k) for k in range(CLASSES)]
    return sum(((a & b).sum() / (a | b).sum()).item() for a, b in pairs) / CLASSES


def picture(images, labels, found, path):
    """One row a test image: the image, its labels, and what each network found."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 2 + len(found), figsize=(2 * (2 + len(found)), 8), layout="constrained")
    for row, axis in enumerate(axes):
        axis[0].imshow(images[row, 0], cmap="gray", vmin=-1, vmax=4)
        for column, (name, classes) in enumerate({"labels": labels, **found}.items(), 1):
            axis[column].imshow(classes[row], cmap="viridis", vmin=0, vmax=CLASSES - 1)
            axis[column].set_title(name if row == 0 else "")
        for each in axis:
            each.set_axis_off()
    axes[0, 0].set_title("image")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=1, help="images per rank")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--plot", default="segmentation.png", help="where rank 0 saves the picture; empty: nowhere")
    parser.add_argument("--json", default="", help="where rank 0 saves the numbers")
    options = parser.parse_args()

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    models = {"synchronized": convert_sync_batchnorm(network(options.seed)), "local": network(options.seed)}
    losses = {name: train(name, model, options) for name, model in models.items()}
    if dist.get_rank() == 0:
        images, labels = draw(TEST_IMAGES)
        found = {name: predict(model, images) for name, model in models.items()}
        results = {name: {"loss": losses[name], "iou": mean_iou(found[name], labels)} for name in models}
        print(f"{'statistics':14}{'loss, last tenth':>18}{'mean IoU, test images':>24}")
        for name, result in results.items():
            last = result["loss"][-max(1, options.steps // 10):]
            print(f"{name:14}{sum(last) / len(last):18.4f}{result['iou']:24.3f}")
        if options.plot:
            picture(images, labels, found, options.plot)
            print(f"saved {os.path.abspath(options.plot)}")
        if options.json:
            with open(options.json, "w") as file:
                json.dump(results, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
