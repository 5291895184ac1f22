# SPDX-License-Identifier: Apache-2.0

"""examples/torch/train_digits.py: the program under torchrun, and its training on two ranks."""

import argparse
import math

import pytest

import example_programs
from networks import CLOSE, distance
from syncbn.torch import convert_sync_batchnorm

pytest.importorskip("sklearn")
import train_digits  # noqa: E402


def digits_in_float64(read=train_digits.digits):
    return [(images.double(), labels) for images, labels in read()]


train_digits.digits = digits_in_float64


def test_the_program(tmp_path):
    printed, numbers = example_programs.run("train_digits.py", tmp_path, "--epochs=2", "--images=100")
    for values in numbers.values():
        assert [len(values[quantity]) for quantity in ("loss", "accuracy")] == [2, 2]
        assert all(math.isfinite(loss) for loss in values["loss"]) and all(0 <= a <= 1 for a in values["accuracy"])
    assert numbers["synchronized"] != numbers["local"]
    assert "synchronized: loss, accuracy" in printed


def trained(statistics, seed=0, batch=2, images=40, epochs=1, rate=0.02):
    """Trains the example's network in float64. Returns the network's state and the loss of each epoch."""
    model = train_digits.network(seed).double()
    if statistics == "synchronized":
        convert_sync_batchnorm(model)
    options = argparse.Namespace(batch=batch, images=images, epochs=epochs, rate=rate)
    return model.state_dict(), train_digits.train(statistics, model, options)["loss"]


def on_rank(rank, *arguments):
    return trained(*arguments)


def test_two_ranks_train_as_one_process_on_the_whole_batch(two_ranks):
    """Ten steps with two samples a rank end as ten steps of one process with four samples and torch's batch norms."""
    expected, losses = example_programs.alone(trained, "local", 0, 4)
    for state, found in two_ranks(on_rank, "synchronized"):
        assert distance(state, expected) < CLOSE
        assert found == pytest.approx(losses, abs=1e-4)  # the example sums losses in float32
    for state, _ in two_ranks(on_rank, "local"):  # control, and what the example shows
        assert distance(state, expected) > 1e6 * CLOSE


def falls(rank, seeds, rate):
    """True for each seed with which the loss of eight images halves within eight epochs of two steps."""
    losses = [trained("synchronized", seed, images=8, epochs=8, rate=rate)[1] for seed in seeds]
    return [of_seed[-1] < of_seed[0] / 2 for of_seed in losses]


def test_it_learns(two_ranks):
    """The loss halves with most seeds. It falls to a fifth."""
    assert sum(two_ranks(falls, range(5), 0.05)[0]) >= 3
    assert not any(two_ranks(falls, range(5), 0.0)[0])  # control: the weights stay as they are
