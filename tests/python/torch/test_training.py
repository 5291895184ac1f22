# SPDX-License-Identifier: Apache-2.0

"""Training on several processes against training in one, on the whole batch, with torch's own batch norms."""

import contextlib
import io
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import syncbn.torch
from networks import CLOSE, batches, convolutional, distance, plain_convolutional, train

STEPS, SAMPLES = 5, 8
#: Bound for the gradients of the first batch in float32. Their roundings are about 1e-6. The input of every ReLU is at least
#: 1e-4 away from 0, so that no rounding turns a ReLU on or off.
CLOSE_IN_FLOAT32 = 1e-4
OPTIONS = {
    "plain": {},
    "broadcast_buffers": {"broadcast_buffers": True},
    **({} if torch.__version__.startswith("2.4.") else {
        "no init_sync": {"init_sync": False},
        "skip unused": {"find_unused_parameters": True, "skip_all_reduce_unused_params": True},
        "bucket sizes": {"bucket_cap_mb_list": [0.0001, 0.0002]},
        "batched copies": {"batched_grad_copy": True},
        "lazy buckets": {"lazy_bucket_allocation": True},
        "no forward_sync_buffers": {"forward_sync_buffers": False},
    }),
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


def accumulated(rank, sizes):
    """Gradients of two batches at a time, added up within no_sync()."""
    if rank is None:
        model, synchronization, parts = plain_convolutional(), contextlib.nullcontext, batches(4, SAMPLES)
    else:
        model = DistributedDataParallel(model_of("built"))
        synchronization, parts = model.no_sync, shares(rank, sizes)[:4]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for i, (x, target) in enumerate(parts):
        with contextlib.nullcontext() if i % 2 else synchronization():
            (((model(x) - target) ** 2).sum() * len(sizes) / (SAMPLES * target.shape[1])).backward()
        if i % 2:
            optimizer.step()
            optimizer.zero_grad()
    return getattr(model, "module", model).state_dict()


def test_gradients_accumulated_without_synchronization(two_ranks):
    reference = accumulated(None, (1,))
    for state in two_ranks(accumulated, (3, 5)):
        assert distance(state, reference) < CLOSE


def delayed(rank, sizes, expected):
    """The gradients of the norms travel with that of the first convolution, which is the last. On CPU torch does not wait
    for them, so the test does. The model is in float32: torch delays no other gradients."""
    model = model_of("built").float()
    names = [name for name, p in model.named_parameters() if p.dim() == 1]
    parameters = dict(model.named_parameters())
    model = DistributedDataParallel(model, param_to_hook_all_reduce=model[0].weight,
                                    delay_all_reduce_named_params=[(name, parameters[name]) for name in names])
    x, target = (part.float() for part in shares(rank, sizes)[0])
    (((model(x) - target) ** 2).sum() * len(sizes) / (SAMPLES * target.shape[1])).backward()
    deadline = time.monotonic() + 60
    while (far := distance({name: p.grad for name, p in parameters.items()}, expected)) > CLOSE_IN_FLOAT32:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return far


def test_delayed_gradients(two_ranks):
    model = plain_convolutional()
    x, target = batches(STEPS, SAMPLES)[0]
    (((model(x) - target) ** 2).sum() / (SAMPLES * target.shape[1])).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert max(two_ranks(delayed, (3, 5), expected)) < CLOSE_IN_FLOAT32


def joined(rank, counts):
    """Ranks with `counts` batches under join(), which must throw where one has less: it can stand in for a rank in
    DistributedDataParallel's own messages, but not in a layer's."""
    model = DistributedDataParallel(model_of("built"))
    error = None
    try:
        with model.join(throw_on_early_termination=True):
            train(model, shares(rank, (3, 5))[:counts[rank]], SAMPLES, ranks=2)
    except RuntimeError as early:
        error = str(early)
    model.module(shares(rank, (3, 5))[0][0])  # the layers' group is whole
    return model.module.state_dict(), error


def test_join(two_ranks):
    model = plain_convolutional()
    train(model, batches(STEPS, SAMPLES)[:3], SAMPLES)
    model(batches(STEPS, SAMPLES)[0][0])
    for counts, thrown in (((3, 3), None), ((3, 5), "exhausted")):
        for state, error in two_ranks(joined, counts):
            assert distance(state, model.state_dict()) < CLOSE
            assert error is None if thrown is None else thrown in error


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
        assert distance(state, reference) > 1e6 * CLOSE
