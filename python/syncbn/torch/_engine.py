# SPDX-License-Identifier: Apache-2.0

"""Sums over the ranks of a torch.distributed process group."""

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from . import _private

# Ctrl-C ends a wait between two slices, but not within one. The slices cost no time that can be measured.
_SLICE_S = 0.25


class GlooEngine:
    """Sums over the ranks of a process group, carried by a separate gloo group over the same ranks.

    In the process group itself the sums would mix with the messages of DistributedDataParallel. The order of those
    differs between ranks if one rank does not use a parameter, and gloo then ends the process.

    The first sum creates the gloo group. `new_group()` can't create it: it names groups by the number of groups that the
    process has created, and the ranks may differ in that number.
    """

    def __init__(self, process_group):
        self.rank = process_group.rank()
        self.size = process_group.size()
        self._name = process_group.group_name
        self._gloo = None

    def all_reduce_sum(self, array, timeout):
        deadline = time.monotonic() + timeout
        if self._gloo is None:
            self._gloo = self._connect(deadline, timeout)
        options = dist.AllreduceOptions()
        # Gloo's limit is later than the deadline, so that an error before the deadline is a peer's.
        options.timeout = timedelta(seconds=max(deadline - time.monotonic(), 0) + 1)
        work = self._gloo.allreduce([torch.from_numpy(array)], options)
        while True:
            try:
                work.wait(timedelta(seconds=max(min(_SLICE_S, deadline - time.monotonic()), 0.001)))
                return
            except RuntimeError:
                if work.is_completed():  # it failed, or it was done just after the slice
                    work.wait()
                    return
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"no sum after {timeout:.3g} s") from None

    def _connect(self, deadline, timeout):
        store = dist.PrefixStore(f"syncbn/{self._name}", _private.default_store())
        self._wait_for_all_ranks(store, deadline)
        limit = max(deadline - time.monotonic(), 0.001)
        if hasattr(store, "clone"):  # while a thread waits on a store's connection, other threads can't use it
            store = store.clone()
        else:  # torch 2.4, which takes this limit for each sum, too, and ignores that of AllreduceOptions
            limit = timeout + 1
        return dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), self.rank, self.size,
                                     timeout=timedelta(seconds=limit))

    def _wait_for_all_ranks(self, store, deadline):
        """Wait until all ranks are about to connect, since Ctrl-C can't end gloo's wait for them."""
        keys = [str(rank) for rank in range(self.size)]
        store.set(keys[self.rank], "1")
        pause = 0.001
        while not store.check(keys):
            if time.monotonic() >= deadline:
                missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
                raise TimeoutError(f"ranks {missing} did not come to connect the group")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
