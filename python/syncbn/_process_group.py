# SPDX-License-Identifier: Apache-2.0

"""The NumPy layer's argument `process_group`: None, the name of a group, a list of ranks, or an engine."""

import weakref

from . import _checks, _core
from ._errors import GroupError, InvalidArgument
from ._groups import WORLD, get_group_size, new_group
from ._mpi4py import Mpi4pyEngine, is_mpi4py
from ._world import is_initialized

# The group of each engine in use, by the engine's id, so that two layers on one engine share a group. The group keeps
# the engine alive, and with it the id.
_groups: weakref.WeakValueDictionary[int, _core.Group] = weakref.WeakValueDictionary()


def resolve(process_group):
    """The form that the core takes: None, the name of a group, or the core's group over an engine."""
    if process_group is None or isinstance(process_group, _core.Group):
        return process_group
    if isinstance(process_group, str):
        return _checks.string("process_group", process_group)
    if isinstance(process_group, list):
        return _group_of_ranks(process_group)
    if is_mpi4py(process_group):
        return _group_of_engine(process_group, lambda: Mpi4pyEngine(process_group))
    if all(hasattr(process_group, name) for name in ("rank", "size", "all_reduce_sum")):
        return _group_of_engine(process_group, lambda: process_group)
    raise TypeError(f"process_group: {process_group!r}, expected None, a group's name, a list of ranks, an mpi4py "
                    "communicator, or an object with rank, size and all_reduce_sum(array, timeout)")


def _group_of_ranks(ranks):
    ranks = _checks.ranks("process_group", ranks)
    size = get_group_size()
    for rank in ranks:
        if not 0 <= rank < size:
            raise InvalidArgument(f"process_group: {ranks}, rank {rank} is outside [0, {size}), the world's ranks")
    if not is_initialized() and size == 1 and ranks == [0]:
        return WORLD
    name = new_group(ranks)
    if name == "":
        raise GroupError(f"process_group: {ranks}, this rank is not in the list")
    return name


def _group_of_engine(key, engine):
    group = _groups.get(id(key))
    if group is None:
        group = _core.make_group(type(key).__name__, engine())
        _groups[id(key)] = group
    return group
