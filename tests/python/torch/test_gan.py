# SPDX-License-Identifier: Apache-2.0

"""examples/torch/gan.py: the program under torchrun, and its training, with gradients of gradients, on two ranks."""

import argparse

import torch

import example_programs
import gan
from networks import CLOSE, distance
from syncbn.torch import convert_sync_batchnorm


def draw_in_float64(seed, count, draw=gan.draw):
    return [part.double() for part in draw(seed, count)]


gan.draw = draw_in_float64


def test_the_program(tmp_path):
    printed, numbers = example_programs.run("gan.py", tmp_path, "--steps=20")
    for values in numbers.values():
        assert 0 <= values["near"] <= 1 and 0 <= values["sectors"] <= gan.SECTORS
    assert "sectors reached" in printed


def test_quality():
    """Real points are near the circle everywhere. Points of one place and points elsewhere are counted as such."""
    real = gan.quality(gan.draw(0, 2000)[0])
    assert real["near"] > 0.99 and real["sectors"] == gan.SECTORS
    assert gan.quality(torch.tensor([[1.0, 0.1]]).repeat(100, 1)) == {"near": 1, "sectors": 1}
    assert gan.quality(torch.zeros(100, 2)) == {"near": 0, "sectors": 0}


def trained(statistics, batch=4, penalty=1.0):
    """The networks' state after five steps in float64."""
    models = gan.networks(0).double()
    if statistics == "synchronized":
        convert_sync_batchnorm(models)
    gan.train(statistics, models, argparse.Namespace(batch=batch, steps=5, rate=1e-3, penalty=penalty))
    return models.state_dict()


def on_rank(rank, *arguments):
    return trained(*arguments)


def test_two_ranks_train_as_one_process_on_the_whole_batch(two_ranks):
    """Five steps with four points a rank end as five steps of one process with eight points and torch's batch norms."""
    expected = example_programs.alone(trained, "local", 8)
    for state in two_ranks(on_rank, "synchronized"):
        assert distance(state, expected) < CLOSE
    for state in two_ranks(on_rank, "local"):  # control, and what the example shows
        assert distance(state, expected) > 1e6 * CLOSE
    without = example_programs.alone(trained, "local", 8, 0.0)  # control: the penalty, and so the double backward, matters
    assert distance(without, expected) > 1e6 * CLOSE
