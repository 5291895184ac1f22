# SPDX-License-Identifier: Apache-2.0

"""Engine over a communicator of mpi4py."""

import atexit
import time

import numpy as np


def is_mpi4py(value):
    """True if `value` is a communicator of mpi4py, which may not be installed."""
    return type(value).__module__.partition(".")[0] == "mpi4py" and hasattr(value, "Iallreduce")


class Mpi4pyEngine:
    """Sums over a duplicate of the communicator, which keeps the program's messages and those of the layers apart.

    The first sum makes the duplicate. Waits poll, so that the deadline and Ctrl-C can end them. MPI can't cancel the
    abandoned operation, nor finalize while it is pending, so the process then ends by MPI's Abort.
    """

    def __init__(self, communicator):
        self.rank = communicator.Get_rank()
        self.size = communicator.Get_size()
        self._communicator = communicator
        self._duplicate = None
        self._abandoned = []  # requests and the arrays that MPI may still write to

    def all_reduce_sum(self, array, timeout):
        deadline = time.monotonic() + timeout
        if self._duplicate is None:
            duplicate, request = self._communicator.Idup()
            self._wait(request, deadline, duplicate)
            self._duplicate = duplicate
        from mpi4py import MPI

        words = array.view(np.uint64)  # unsigned sums may wrap
        request = self._duplicate.Iallreduce(MPI.IN_PLACE, words, op=MPI.SUM)
        self._wait(request, deadline, words)

    def _wait(self, request, deadline, memory):
        try:
            tries = 0
            while not request.Test():
                tries += 1
                if tries < 1000:  # a sum between two processes takes microseconds
                    continue
                if time.monotonic() >= deadline:
                    raise TimeoutError("MPI: the sum did not arrive by the deadline")
                time.sleep(50e-6)
        except BaseException:
            if not self._abandoned:
                from mpi4py import MPI

                atexit.register(MPI.COMM_WORLD.Abort, 1)
            self._abandoned.append((request, memory))
            raise
