# SPDX-License-Identifier: Apache-2.0

"""For scripts that run on every rank of a job: MindSpore joined, groups, and calls with NumPy in and out."""

import mindspore
import numpy as np
from mindspore import ParameterTuple, Tensor, ops
from mindspore.communication import create_group, get_group_size, get_rank, init
from mindspore.mint import distributed

from syncbn.mindspore import SyncBatchNorm

mindspore.set_context(mode=mindspore.PYNATIVE_MODE, device_target="CPU")
init()  # MindSpore's scheduler stays in here
RANK, SIZE = get_rank(), get_group_size()


def group_of(ranks, name=None):
    """The name of a group of these ranks, made where this one is a member."""
    name = name or "-".join(map(str, ranks))
    if RANK in ranks:
        create_group(name, list(ranks))
    return name


def barrier():
    distributed.all_reduce(Tensor([1], mindspore.int64))


def step(layer, x, dy):
    """Forward and backward: y, dx, then the gradients of weight and bias where they exist."""
    x, dy = (t if isinstance(t, Tensor) else Tensor(t) for t in (x, dy))
    results = []

    def call(x):
        results.append(layer(x))
        return results[0]

    # With dy as an input: MindSpore sums no bfloat16 on CPU, and nothing that is empty.
    parameters = layer.trainable_params()
    gradient = ops.GradOperation(get_all=True, get_by_list=bool(parameters), sens_param=True)
    found = gradient(call, ParameterTuple(parameters) if parameters else None)(x, dy)
    (dx,), rest = found if parameters else (found, ())
    return [t.asnumpy() for t in (results[0], dx, *rest)]


def layer(num_features, **arguments):
    made = SyncBatchNorm(num_features, **arguments)
    made.set_train()
    return made


def bits(a):
    return a.shape, str(a.dtype), a.tobytes()
