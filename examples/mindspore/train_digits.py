# SPDX-License-Identifier: Apache-2.0

"""Trains a small network on handwritten digits with two samples a rank and step, twice: with statistics over all ranks,
and with each rank's own. Prints both results and draws loss and accuracy.

msrun --worker_num=2 --local_worker_num=2 --master_port=8975 --log_dir=msrun_log --join=True --cluster_time_out=100 \
    train_digits.py

syncbn-run, with --ms_scheduler=True, does as well.
"""

import argparse
import pathlib

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.communication import create_group, get_group_size, get_rank, init
from mindspore.mint import distributed
from tqdm import tqdm

from syncbn.mindspore import SyncBatchNorm

DIGITS = pathlib.Path(__file__).resolve().parents[1] / "data" / "digits.bin"
SAMPLES = 2  # a rank and step


def load_digits():
    """Images (N, 64) and labels: four fifths to train, the rest to test. examples/data/README.md has the format."""
    records = np.frombuffer(DIGITS.read_bytes(), np.uint8, offset=16).reshape(-1, 65)
    images, labels = records[:, :64].astype(np.float32) / 16, records[:, 64].astype(np.int32)
    test = np.arange(len(records)) % 5 == 4
    return (images[~test], labels[~test]), (images[test], labels[test])


def network(group, seed):
    random = np.random.default_rng(seed)

    def dense(inputs, outputs):
        weight = random.standard_normal((outputs, inputs)) * (2 / inputs) ** 0.5
        return nn.Dense(inputs, outputs, weight_init=Tensor(weight, mindspore.float32), bias_init="zeros")

    return nn.SequentialCell(dense(64, 64), SyncBatchNorm(64, process_group=group), nn.ReLU(), dense(64, 10))


def mean_of_ranks(gradients):
    """As nn.DistributedGradReducer's, which makes a sum for each parameter: at two samples the sums take the time."""
    flat = ops.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    parts = ops.split(flat / get_group_size(), [gradient.size for gradient in gradients])
    return tuple(part.reshape(gradient.shape) for part, gradient in zip(parts, gradients))


def train(name, net, training, test, arguments):
    """The loss of this rank's samples in each step, and the accuracy on the test images after each epoch."""
    rank, ranks = get_rank(), get_group_size()
    images, labels = training
    steps = min(arguments.steps or len(images), len(images) // (SAMPLES * ranks))
    optimizer = nn.SGD(net.trainable_params(), learning_rate=arguments.rate, momentum=0.9)
    gradient = mindspore.value_and_grad(lambda x, label: ops.cross_entropy(net(x), label), None, optimizer.parameters)
    random = np.random.default_rng(0)  # the same on every rank
    losses, accuracies = [], []
    with tqdm(total=arguments.epochs * steps, desc=name, unit="step", disable=rank != 0, mininterval=1) as bar:
        for _ in range(arguments.epochs):
            net.set_train()
            for batch in random.permutation(len(images))[:steps * ranks * SAMPLES].reshape(steps, ranks, SAMPLES):
                loss, gradients = gradient(Tensor(images[batch[rank]]), Tensor(labels[batch[rank]]))
                optimizer(mean_of_ranks(gradients) if ranks > 1 else gradients)
                losses.append(float(loss.asnumpy()))
                bar.update()
            net.set_train(False)
            found = net(Tensor(test[0])).asnumpy().argmax(1)
            accuracies.append(float((found == test[1]).mean()))
            bar.set_postfix(loss=f"{np.mean(losses[-steps:]):.3f}", accuracy=f"{accuracies[-1]:.1%}")
    return losses, accuracies


def draw(file, histories, epochs):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, (losses, accuracies) in histories.items():
        ends = np.cumsum([len(part) for part in np.array_split(losses, 12 * epochs)])
        left.plot(ends, [np.mean(part) for part in np.array_split(losses, 12 * epochs)], label=name)
        right.plot(range(1, epochs + 1), accuracies, marker="o", label=name)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel="accuracy on the test images")
    left.legend(title="statistics")
    figure.suptitle(f"{SAMPLES} samples a rank and step, {get_group_size()} ranks")
    figure.savefig(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="in an epoch; default: all images")
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate")
    parser.add_argument("--seed", type=int, default=1, help="of the first weights")
    parser.add_argument("--plot", default="train_digits.png", help="file for the curves")
    arguments = parser.parse_args()

    mindspore.set_context(mode=mindspore.PYNATIVE_MODE, device_target="CPU")
    init()
    rank = get_rank()
    create_group(f"only {rank}", [rank])
    training, test = load_digits()
    histories = {name: train(name, network(group, arguments.seed), training, test, arguments)
                 for name, group in (("synchronized", None), ("local", f"only {rank}"))}
    if rank == 0:
        for name, (losses, accuracies) in histories.items():
            print(f"{name}: loss {np.mean(losses[-len(losses) // arguments.epochs:]):.4f}, "
                  f"accuracy {accuracies[-1]:.2%} on the test images")
        draw(arguments.plot, histories, arguments.epochs)
        print(f"curves in {arguments.plot}")


if __name__ == "__main__":
    main()
