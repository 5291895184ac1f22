# SPDX-License-Identifier: Apache-2.0

"""Sums over the ranks of a MindSpore group."""

import time

from mindspore import Tensor
from mindspore.communication import get_rank
from mindspore.mint import distributed

# Seconds that MindSpore waits for a peer. It has no setting for this limit.
_WAIT_S = 30
# An error before this time is not MindSpore's time limit, but a failure.
_TIMED_OUT_AFTER_S = 29


class MindSporeEngine:
    """Sums over the ranks of a MindSpore group, carried by MindSpore's AllReduce of int64."""

    def __init__(self, name, ranks):
        self.rank = ranks.index(get_rank())
        self.size = len(ranks)
        self._name = name

    def all_reduce_sum(self, array, timeout):
        total = Tensor.from_numpy(array)  # shares the memory of the array
        start = time.monotonic()
        try:
            distributed.all_reduce(total, group=self._name)
            total.data_ptr()  # waits for the sum
        except RuntimeError as error:
            if time.monotonic() - start < _TIMED_OUT_AFTER_S:
                raise
            raise TimeoutError(f"MindSpore's AllReduce gave up after the {_WAIT_S} s that it always waits, and does not "
                               "say for whom") from error
