# SPDX-License-Identifier: Apache-2.0

"""Prints whether mindspore.jit is seen before, in and after a traced call."""

import mindspore
import numpy
from syncbn.mindspore import _private


def function(x):
    print("traced:", _private.jit_context() is not None, flush=True)
    return x + 1


print("before:", _private.jit_context() is not None, flush=True)
mindspore.jit(function, capture_mode="trace")(mindspore.Tensor(numpy.ones(2, numpy.float32)))
print("after:", _private.jit_context() is not None, flush=True)
