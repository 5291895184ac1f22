# SPDX-License-Identifier: Apache-2.0

"""Process groups of torch.distributed as groups of the core."""

import atexit
import functools
import itertools
import os
import weakref

import torch.distributed as dist

from . import _private
from .._errors import GroupError
from .._framework_group import FrameworkGroup, single_rank_group
from ._engine import GlooEngine, SimulatedEngine

#: Stands for the name of a process group that this rank is not a member of.
NOT_A_MEMBER = "<not a member>"

_IS_AVAILABLE = dist.is_available()
_groups: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # ProcessGroup: FrameworkGroup
_numbers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # ProcessGroup: numbers for its layers
_layers_before_init = 0  # number of layers made before the default process group was


def name_of(process_group):
    """The name of a layer's `process_group`. None, the default group, has the name ''."""
    if process_group is None:
        return ""
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        return NOT_A_MEMBER
    if not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(f"process_group: {type(process_group).__name__}, expected a torch.distributed.ProcessGroup or "
                        "None")
    return process_group.group_name


def next_number(process_group):
    """Number of a new layer in its process group. It is the same on all ranks that build the same model in the group."""
    global _layers_before_init
    if process_group is None and _IS_AVAILABLE:
        process_group = dist.group.WORLD  # None before init_process_group()
    if process_group is None:
        _layers_before_init += 1
        return _layers_before_init
    if not isinstance(process_group, dist.ProcessGroup):  # this rank is not a member; the layer can only evaluate
        return 0
    if process_group not in _numbers:
        # A model may be built before the default process group.
        _numbers[process_group] = itertools.count(_layers_before_init + 1 if process_group is dist.group.WORLD else 1)
    return next(_numbers[process_group])


def process_group_named(name):
    """The process group of a name. None for '', the default group."""
    if name == NOT_A_MEMBER:
        return dist.GroupMember.NON_GROUP_MEMBER
    if not name:
        return None
    try:
        return _private.process_group_by_name(name)
    except (RuntimeError, ValueError, KeyError) as error:
        raise GroupError(f"process_group: this process has no process group '{name}'; create it with "
                         "torch.distributed.new_group(), or set the layer's process_group") from error


def framework_group(name):
    """The FrameworkGroup over the process group of a name. For '' without a default process group: this rank alone."""
    if not name:
        process_group = _default_process_group()
        if process_group is None:
            return single_rank_group()
    elif name == NOT_A_MEMBER:
        raise GroupError("process_group: this rank is not a member of the layer's process group; in it the layer can "
                         "only evaluate")
    else:
        process_group = process_group_named(name)
    group = _groups.get(process_group)
    if group is None:
        label = f"torch.distributed's {name}" if name else "torch.distributed's world"
        group = _groups[process_group] = _joined(label, process_group)
    return group


def _joined(label, process_group):
    if _private.is_fake(process_group):
        return FrameworkGroup(label, SimulatedEngine(process_group))
    timeout = None if "SYNCBN_TIMEOUT_S" in os.environ else _private.timeout_of(process_group)
    if timeout is not None:
        timeout = min(max(timeout, 0.001), 999_999_999)  # what the core takes
    return FrameworkGroup(label, GlooEngine(process_group), timeout,
                          "the process group's timeout, else SYNCBN_TIMEOUT_S")


def _default_process_group():
    if _IS_AVAILABLE:
        world = dist.group.WORLD
        if world is not None:
            return world
    if _ranks_in_environment() > 1:
        raise GroupError(f"the environment names {_ranks_in_environment()} ranks (WORLD_SIZE): "
                         "torch.distributed.init_process_group() must be called before a layer trains")
    return None


@functools.lru_cache(maxsize=None)  # reading the environment takes 1 µs, in a call of 10 µs
def _ranks_in_environment():
    ranks = os.environ.get("WORLD_SIZE", "")
    return int(ranks) if ranks.isdecimal() else 1


@atexit.register
def _forget():
    _groups.clear()
