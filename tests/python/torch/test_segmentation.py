# SPDX-License-Identifier: Apache-2.0

"""examples/torch/segmentation.py: the program under torchrun, its images, and its training on two ranks."""

import argparse
import math

import pytest
import torch

import example_programs
import segmentation
from networks import CLOSE, distance
from syncbn.torch import convert_sync_batchnorm


def draw_in_float64(numbers, draw=segmentation.draw):
    images, labels = draw(numbers)
    return images.double(), labels


segmentation.draw = draw_in_float64


def test_the_program(tmp_path):
    printed, numbers = example_programs.run("segmentation.py", tmp_path, "--steps=10")
    for values in numbers.values():
        assert len(values["loss"]) == 10 and all(math.isfinite(loss) for loss in values["loss"])
        assert 0 <= values["iou"] <= 1
    assert numbers["synchronized"] != numbers["local"]
    assert "mean IoU" in printed


def test_an_image_does_not_tell_its_brightness_once_it_is_normalized():
    """What the example is about: all shapes of an image have one class, and both classes occur."""
    images, labels = segmentation.draw(range(20))
    classes = [set(label[label > 0].tolist()) for label in labels]
    assert all(len(of_image) == 1 for of_image in classes) and set().union(*classes) == {1, 2}
    assert torch.equal(images[3:4], segmentation.draw([3])[0])  # an image depends on its number alone


def test_intersection_over_union():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert segmentation.mean_iou(labels, labels) == 1
    assert segmentation.mean_iou(torch.tensor([0, 0, 1, 2, 2, 2]), labels) == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)


def trained(statistics, batch=1, seed=0, steps=10, rate=0.05):
    model = segmentation.network(seed).double()
    if statistics == "synchronized":
        convert_sync_batchnorm(model)
    options = argparse.Namespace(batch=batch, steps=steps, rate=rate)
    return segmentation.train(statistics, model, options), model.state_dict()


def on_rank(rank, *arguments):
    return trained(*arguments)


def test_two_ranks_train_as_one_process_on_the_whole_batch(two_ranks):
    """Ten steps with one image a rank end as ten steps of one process with two images and torch's batch norms."""
    losses, expected = example_programs.alone(trained, "local", 2)
    for found, state in two_ranks(on_rank, "synchronized"):
        assert distance(state, expected) < CLOSE
        assert found == pytest.approx(losses, abs=CLOSE)
    for _, state in two_ranks(on_rank, "local"):  # control, and what the example shows
        assert distance(state, expected) > 1e6 * CLOSE


def falls(rank, seeds, rate):
    """True for each seed with which the loss of the last five of thirty steps is half that of the first."""
    losses = [trained("synchronized", 1, seed, 30, rate)[0] for seed in seeds]
    return [sum(of_seed[-5:]) / 5 < of_seed[0] / 2 for of_seed in losses]


def test_it_learns(two_ranks):
    assert sum(two_ranks(falls, range(5), 0.05)[0]) >= 3
    assert not any(two_ranks(falls, range(5), 0.0)[0])  # control: the weights stay as they are
