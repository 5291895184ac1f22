"""Training on several processes against training in one, on the whole batch, with torch's own batch norms."""

import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import syncbn.torch
from networks import batches, convolutional, distance, plain_convolutional, train

STEPS, SAMPLES = 5, 8
#: Float32 rounding over five steps; without synchronization the distance is over 0.01.
CLOSE = 1e-4
OPTIONS = {
    "plain": {},
    "small buckets": {"bucket_cap_mb": 0.0001},
    "bucket views": {"gradient_as_bucket_view": True},
    "static graph": {"static_graph": True},
    "find unused": {"find_unused_parameters": True},
    "no buffers": {"broadcast_buffers": False},
}


def shares(rank, sizes):
    begin = sum(sizes[:rank])
    return [(x[begin:begin + sizes[rank]], target[begin:begin + sizes[rank]]) for x, target in batches(STEPS, SAMPLES)]


def model_of(kind):
    if kind == "built":
        return convolutional(syncbn.torch.SyncBatchNorm)
    if kind == "converted":
        return syncbn.torch.convert_sync_batchnorm(plain_convolutional())
    return plain_convolutional()  # no synchronization: the control


def trained(rank, kind, sizes, options):
    model = DistributedDataParallel(model_of(kind), **options)
    train(model, shares(rank, sizes), SAMPLES, ranks=len(sizes))
    return model.module.state_dict()


@pytest.fixture(scope="module")
def reference():
    model = plain_convolutional()
    train(model, batches(STEPS, SAMPLES), SAMPLES)
    return model.state_dict()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_two_ranks_train_as_one(two_ranks, reference, options):
    for state in two_ranks(trained, "built", (3, 5), options):
        assert distance(state, reference) < CLOSE


def test_a_converted_model_trains_as_one(two_ranks, reference):
    for state in two_ranks(trained, "converted", (3, 5), {}):
        assert distance(state, reference) < CLOSE


def resumed(rank, sizes):
    """Saves after two steps, and goes on with a new model and a new group."""
    model = DistributedDataParallel(model_of("built"))
    parts = shares(rank, sizes)
    optimizer = train(model, parts[:2], SAMPLES, ranks=len(sizes))
    file = io.BytesIO()
    torch.save((model.module.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    model_state, optimizer_state = torch.load(file)
    again = model_of("built")
    again.load_state_dict(model_state)
    again = DistributedDataParallel(again, process_group=dist.new_group(list(range(len(sizes)))))
    train(again, parts[2:], SAMPLES, ranks=len(sizes), state=optimizer_state)
    return again.module.state_dict()


def test_saved_and_loaded_in_the_middle(two_ranks):
    through = two_ranks(trained, "built", (3, 5), {})
    for state, expected in zip(two_ranks(resumed, (3, 5)), through):
        assert distance(state, expected) == 0


def test_one_sample_and_empty_shares(three_ranks, reference):
    for sizes in ((1, 7, 0), (0, 4, 4)):
        for state in three_ranks(trained, "built", sizes, {}):
            assert distance(state, reference) < CLOSE


def test_without_synchronization_the_distance_shows(two_ranks, reference):
    for state in two_ranks(trained, "local", (3, 5), {}):
        assert distance(state, reference) > 100 * CLOSE
