"""mpi4py's communicators as engines."""

import atexit
import time

import numpy as np


def is_mpi4py(value):
    """Whether this is a communicator of mpi4py, which need not be installed."""
    return type(value).__module__.partition(".")[0] == "mpi4py" and hasattr(value, "Iallreduce")


class Mpi4pyEngine:
    """Sums on a duplicate of the communicator, so that no message of the program's own comes in between.

    The duplicate is made at the first sum. Waits poll, so that the deadline and Ctrl-C end them; MPI can then
    neither cancel the operation nor finalize, so that the process ends by MPI's Abort.
    """

    def __init__(self, communicator):
        self.rank = communicator.Get_rank()
        self.size = communicator.Get_size()
        self._communicator = communicator
        self._duplicate = None
        self._abandoned = []  # MPI may still write to these arrays

    def all_reduce_sum(self, array, timeout):
        deadline = time.monotonic() + timeout
        if self._duplicate is None:
            duplicate, request = self._communicator.Idup()
            self._wait(request, deadline, duplicate)
            self._duplicate = duplicate
        from mpi4py import MPI

        words = array.view(np.uint64)  # unsigned, for sums that wrap
        request = self._duplicate.Iallreduce(MPI.IN_PLACE, words, op=MPI.SUM)
        self._wait(request, deadline, words)

    def _wait(self, request, deadline, kept):
        try:
            tries = 0
            while not request.Test():
                tries += 1
                if tries < 1000:  # a sum between two processes takes microseconds
                    continue
                if time.monotonic() >= deadline:
                    raise TimeoutError("MPI: no sum by the deadline")
                time.sleep(50e-6)
        except BaseException:
            if not self._abandoned:
                from mpi4py import MPI

                atexit.register(MPI.COMM_WORLD.Abort, 1)
            self._abandoned.append((request, kept))
            raise
