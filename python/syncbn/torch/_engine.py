# SPDX-License-Identifier: Apache-2.0

"""Sums over the ranks of a torch.distributed process group."""

import re
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from . import _private
from .._errors import PeerError, TimeoutError
from ._attendance import Attendance

# Ctrl-C ends a wait between two slices, but not within one. The slices cost no time that can be measured.
_SLICE_S = 0.25
_PROBE_TAG = 1  # no rank sends with it


class GlooEngine:
    """Sums over the ranks of a process group, carried by a separate gloo group over the same ranks.

    In the process group itself the sums would mix with the messages of DistributedDataParallel. The order of those
    differs between ranks if one rank does not use a parameter, and gloo then ends the process.

    The first sum creates the gloo group. `new_group()` can't create it: it names groups by the number of groups that the
    process has created, and the ranks may differ in that number.
    """

    def __init__(self, process_group):
        ranks = range(process_group.size())
        self._set_up(f"syncbn/{process_group.group_name}", process_group.rank(), ranks)

    def _set_up(self, prefix, rank, names):
        """`names`: the numbers of the ranks in messages."""
        self.rank, self.size = rank, len(names)
        self._prefix = prefix
        self._names = names
        self._gloo = None
        self._attendance = None
        self._sums = 0

    def all_reduce_sum(self, array, timeout):
        deadline = time.monotonic() + timeout
        if self._gloo is None:
            self._gloo = self._connect(deadline, timeout)
        self._sums += 1
        options = dist.AllreduceOptions()
        # Gloo's limit is later than the deadline, so that an error before the deadline is a peer's.
        options.timeout = timedelta(seconds=max(deadline - time.monotonic(), 0) + 1)
        try:
            work = self._gloo.allreduce([torch.from_numpy(array)], options)
            if _is_done(work, deadline):
                return
            self._attendance.report_waiting(self._sums)
            while not _is_done(work, deadline):
                if time.monotonic() >= deadline:
                    self._give_up(self._attendance.absent_from(self._sums), timeout)
                self._raise_if_ended()
        except RuntimeError as error:
            lost = self._lost_peers()
            reason = f"connection closed by {_rank_list(lost)}" if lost else _reason(error)
            raise PeerError(self._attendance.report_end(reason)) from None

    def connect_leaders(self, ranks, timeout):
        """An engine over one rank of each host. Its sums have the numbers that follow on those of this engine."""
        leaders = GlooEngine.__new__(GlooEngine)
        leaders._set_up(f"{self._prefix}/leaders", ranks.index(self.rank), ranks)
        leaders._attendance = self._attendance
        leaders._gloo = leaders._connect(time.monotonic() + timeout, timeout)
        leaders._sums = self._sums + 1  # the sum that decides is this engine's last one
        return leaders

    def report_waiting(self, number):
        self._attendance.report_waiting(self._sums + number)

    def absent_from(self, number):
        return self._attendance.absent_from(self._sums + number)

    def give_up(self, reason):
        self._attendance.report_end(reason)

    def check_peers(self):
        self._raise_if_ended()

    def _connect(self, deadline, timeout):
        store = dist.PrefixStore(self._prefix, _private.default_store())
        if self._attendance is None:
            self._attendance = Attendance(dist.PrefixStore("attendance", store), self.rank, self.size)
        self._wait_for_all_ranks(store, deadline, timeout)
        limit = max(deadline - time.monotonic(), 0.001)
        if hasattr(store, "clone"):  # while a thread waits on a store's connection, other threads can't use it
            store = store.clone()
        else:  # torch 2.4, which takes this limit for each sum, too, and ignores that of AllreduceOptions
            limit = timeout + 1
        try:
            return dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), self.rank, self.size,
                                         timeout=timedelta(seconds=limit))
        except RuntimeError as error:
            reason = f"gloo can't connect rank {self.rank} with the other ranks: {_reason(error)}"
            raise PeerError(self._attendance.report_end(reason)) from None

    def _wait_for_all_ranks(self, store, deadline, timeout):
        """Wait until all ranks are about to connect, since Ctrl-C can't end gloo's wait for them."""
        keys = [str(rank) for rank in range(self.size)]
        store.set(keys[self.rank], "1")
        if store.check([f"attendance/{Attendance.END}"]):
            self._raise_if_ended()
        pause = 0.001
        while not store.check(keys):
            if time.monotonic() >= deadline:
                absent = [name for name, key in zip(self._names, keys) if not store.check([key])]
                self._give_up(absent, timeout)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _give_up(self, absent, timeout):
        waiting = f"waiting for {_rank_list(absent)}" if absent else "no sum"
        self._attendance.report_end(f"rank {self._names[self.rank]} gave a sum up after {round(timeout, 2):g} s, {waiting}")
        raise TimeoutError(waiting)

    def _raise_if_ended(self):
        """Raise the error of a peer whose failure this rank's connections may never show."""
        reason = self._attendance.end()
        if reason:
            raise PeerError(reason)

    def _lost_peers(self):
        """The peers whose connection is closed: gloo takes no receive from them."""
        lost = []
        for peer in range(self.size):
            try:
                if peer != self.rank:
                    self._gloo.recv([torch.empty(1)], peer, _PROBE_TAG)
            except RuntimeError:
                lost.append(self._names[peer])
        return lost


class SimulatedEngine:
    """Sums of a dry run, as if every peer brought the same as this rank: for torch's backend "fake"."""

    def __init__(self, process_group):
        self.rank = process_group.rank()
        self.size = process_group.size()

    def all_reduce_sum(self, array, timeout):
        array *= self.size  # wraps, as a sum does


def _is_done(work, deadline):
    """True if the sum is complete before the deadline and within a slice. A sum that failed raises gloo's RuntimeError."""
    try:
        work.wait(timedelta(seconds=max(min(_SLICE_S, deadline - time.monotonic()), 0.001)))
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()  # it failed, or it was done just after the slice
    return True


def _reason(error):
    """The text of one of gloo's errors, without the place in gloo's source at its begin."""
    return re.sub(r"^\[[^\]]*:\d+\] ", "", str(error))


def _rank_list(ranks):
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"
