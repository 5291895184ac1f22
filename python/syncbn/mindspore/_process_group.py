"""MindSpore's groups as groups of the core, with sums that MindSpore carries."""

import atexit
import collections
import functools
import itertools
import time

from mindspore import Tensor
from mindspore.communication import GlobalComm, get_group_size, get_process_group_ranks, get_rank
from mindspore.mint import distributed

from .._errors import GroupError
from .._framework_group import Group, alone

# What mindspore.communication takes for the world on every device, beside the empty name.
_WORLD_NAMES = ("", "hccl_world_group", "nccl_world_group", "mccl_world_group")
# How long MindSpore waits for a peer, in seconds; it can't be set. A sum that failed earlier failed for another reason.
_WAIT_S = 30
_GAVE_UP_S = 29

# Numbers of the layers by group, as _members() has it: ranks that build the same network agree on them.
_numbers: collections.defaultdict = collections.defaultdict(lambda: itertools.count(1))


class _Engine:
    """Sums int64 words over the ranks of a MindSpore group."""

    def __init__(self, name, ranks):
        self.rank = ranks.index(get_rank())
        self.size = len(ranks)
        self._name = name

    def all_reduce_sum(self, array, timeout):
        total = Tensor.from_numpy(array)  # shares the memory
        start = time.monotonic()
        try:
            distributed.all_reduce(total, group=self._name)
            total.data_ptr()  # waits for the sum
        except RuntimeError as error:
            if time.monotonic() - start < _GAVE_UP_S:
                raise
            raise TimeoutError(f"MindSpore's AllReduce gave up after the {_WAIT_S} s that it always waits, and does not "
                               "say for whom") from error


def resolved(process_group):
    """The name of a layer's `process_group`: None and every name of the world become the world's."""
    if process_group is None or process_group in _WORLD_NAMES:
        return GlobalComm.WORLD_COMM_GROUP
    return process_group


def size_of(name):
    """Ranks in the group; before MindSpore's init() the environment's. A GroupError where it is unknown."""
    if not GlobalComm.INITED:
        if resolved(name) == GlobalComm.WORLD_COMM_GROUP:
            return get_group_size()
        raise GroupError(f"process_group: {name!r} can't exist yet: call mindspore.communication.init() first")
    return len(_members(resolved(name))[1])


def next_number(name):
    return next(_numbers["" if name in _WORLD_NAMES else _members(name)])


def core_group(name):
    """The Group for training."""
    if GlobalComm.INITED:
        return _joined(*_members(resolved(name)))
    size = size_of(name)
    if size == 1:
        return alone()
    raise GroupError(f"process_group: {name!r}: the environment names {size} ranks, which this one has not joined; call "
                     "mindspore.communication.init() first")


def _members(name):
    """The name and its group's ranks now: MindSpore's destroy_group() may end a group at any time."""
    try:
        return name, tuple(get_process_group_ranks(name))
    except RuntimeError as error:
        raise GroupError(f"process_group: {name!r} is unknown to rank {get_rank()}: not made by "
                         "mindspore.communication.create_group(), destroyed, or this rank is no member") from error


@functools.lru_cache(maxsize=None)
def _joined(name, ranks):
    return Group(name, _Engine(name, ranks), _WAIT_S)


atexit.register(_joined.cache_clear)
