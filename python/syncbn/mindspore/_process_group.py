# SPDX-License-Identifier: Apache-2.0

"""MindSpore's groups as groups of the core."""

import atexit
import functools

from mindspore.communication import get_group_size, get_process_group_ranks, get_rank

from .._errors import GroupError
from .._framework_group import FrameworkGroup, single_rank_group
from ._engine import MindSporeEngine
from ._private import GlobalComm

# The names that mindspore.communication takes for the world, on any device.
_WORLD_NAMES = ("", "hccl_world_group", "nccl_world_group", "mccl_world_group")


def group_name_of(process_group):
    """The name of the group of a layer's `process_group`: for None and for any name of the world, the world's name."""
    if process_group is None or process_group in _WORLD_NAMES:
        return GlobalComm.WORLD_COMM_GROUP
    return process_group


def size_of(name):
    """Number of ranks in the group; before MindSpore's init(), of the ranks in the environment."""
    if not GlobalComm.INITED:
        if group_name_of(name) == GlobalComm.WORLD_COMM_GROUP:
            return get_group_size()
        raise GroupError(f"process_group: {name!r} can't exist yet: call mindspore.communication.init() first")
    return len(_members(group_name_of(name))[1])


def framework_group(name):
    """The FrameworkGroup over the group of a name, for training."""
    if GlobalComm.INITED:
        return _joined_group(*_members(group_name_of(name)))
    size = size_of(name)
    if size == 1:
        return single_rank_group()
    raise GroupError(f"process_group: {name!r}: the environment names {size} ranks, which this one has not joined; call "
                     "mindspore.communication.init() first")


def _members(name):
    """The name and the present ranks of its group, which MindSpore's destroy_group() may end at any time."""
    try:
        return name, tuple(get_process_group_ranks(name))
    except RuntimeError as error:
        raise GroupError(f"process_group: {name!r} is unknown to rank {get_rank()}: not made by "
                         "mindspore.communication.create_group(), destroyed, or this rank is not a member") from error


@functools.lru_cache(maxsize=None)
def _joined_group(name, ranks):
    return FrameworkGroup(name, MindSporeEngine(name, ranks), naming="name=")


atexit.register(_joined_group.cache_clear)
