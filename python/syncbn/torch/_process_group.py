"""Groups of torch.distributed as groups of the core."""

import atexit
import functools
import itertools
import os
import time
import weakref
from datetime import timedelta

import torch
import torch.distributed as dist

from .._errors import GroupError
from .._framework_group import Group, alone

# A wait in slices ends with Ctrl-C; one without does not. Slices cost nothing that can be measured.
_SLICE = 0.25  # seconds

#: Name of a group that its creator is no member of.
NOT_A_MEMBER = "<not a member>"


class Engine:
    """Sums over the ranks of a process group, in a gloo group of its own over the same ranks.

    In the process group itself they would meet DistributedDataParallel's traffic, whose order differs between the ranks
    where one of them does not use a parameter; gloo ends the process then. The group is made at the first sum, and not by
    new_group(): that names groups by a count of all that a process has made, on which these ranks may not agree, the less
    so as they come here one by one.
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
        # Later than ours, so that an error before the deadline is a peer's.
        options.timeout = timedelta(seconds=max(deadline - time.monotonic(), 0) + 1)
        work = self._gloo.allreduce([torch.from_numpy(array)], options)
        while True:
            try:
                work.wait(timedelta(seconds=max(min(_SLICE, deadline - time.monotonic()), 0.001)))
                return
            except RuntimeError:
                if work.is_completed():  # failed, or done just after the slice
                    work.wait()
                    return
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"no sum after {timeout:.3g} s") from None

    def _connect(self, deadline, timeout):
        store = dist.PrefixStore(f"syncbn/{self._name}", dist.distributed_c10d._get_default_store())
        self._meet(store, deadline)
        limit = max(deadline - time.monotonic(), 0.001)
        if hasattr(store, "clone"):  # a wait locks other threads out of a store's connection
            store = store.clone()
        else:  # torch 2.4, for which this is the limit of each sum, too, whatever its options say
            limit = timeout + 1
        return dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), self.rank, self.size,
                                     timeout=timedelta(seconds=limit))

    def _meet(self, store, deadline):
        """Wait until all ranks are about to connect; gloo's own wait can't be interrupted."""
        keys = [str(rank) for rank in range(self.size)]
        store.set(keys[self.rank], "1")
        pause = 0.001
        while not store.check(keys):
            if time.monotonic() >= deadline:
                missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
                raise TimeoutError(f"ranks {missing} did not come to connect the group")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)


_groups: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # ProcessGroup: Group
_numbers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # ProcessGroup: numbers of its layers
_built_before = 0


def name_of(process_group):
    """What a layer keeps of its `process_group`: the object can be neither copied nor pickled. '' is the default."""
    if process_group is None:
        return ""
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        return NOT_A_MEMBER
    if not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(f"process_group: {type(process_group).__name__}, expected a torch.distributed.ProcessGroup or "
                        "None")
    return process_group.group_name


def next_number(process_group):
    """Number of a new layer: ranks that build the same model in a group agree on it, whatever they did before."""
    global _built_before
    if process_group is None and dist.is_available() and dist.is_initialized():
        process_group = dist.group.WORLD
    if process_group is None:
        _built_before += 1
        return _built_before
    if not isinstance(process_group, dist.ProcessGroup):  # not a member: a layer for evaluation
        return 0
    if process_group not in _numbers:
        # A model may be built before the default group is.
        _numbers[process_group] = itertools.count(_built_before + 1 if process_group is dist.group.WORLD else 1)
    return next(_numbers[process_group])


def process_group_of(name):
    """The process group of that name in this process; None: the default one, where there is none."""
    if name == NOT_A_MEMBER:
        return dist.GroupMember.NON_GROUP_MEMBER
    if not name:
        return None
    try:
        return dist.distributed_c10d._resolve_process_group(name)
    except (RuntimeError, ValueError, KeyError) as error:
        raise GroupError(f"process_group: this process has no process group '{name}'") from error


def core_group(name):
    """The Group over the process group `name`, '' being the default. One rank alone where there is none."""
    if not name:
        process_group = _default_process_group()
        if process_group is None:
            return alone()
    elif name == NOT_A_MEMBER:
        raise GroupError("process_group: this rank is not a member of the layer's process group")
    else:
        process_group = process_group_of(name)
    group = _groups.get(process_group)
    if group is None:
        label = f"torch.distributed's {name}" if name else "torch.distributed's world"
        group = _groups[process_group] = Group(label, Engine(process_group))
    return group


def _default_process_group():
    if dist.is_available() and dist.is_initialized():
        return dist.group.WORLD
    if _ranks_of_the_environment() > 1:
        raise GroupError(f"the environment names {_ranks_of_the_environment()} ranks (WORLD_SIZE): "
                         "torch.distributed.init_process_group() must be called before a layer trains")
    return None


@functools.lru_cache(maxsize=None)  # looking takes a microsecond, on every call
def _ranks_of_the_environment():
    ranks = os.environ.get("WORLD_SIZE", "")
    return int(ranks) if ranks.isdecimal() else 1


@atexit.register
def _forget():
    _groups.clear()
