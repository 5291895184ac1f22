# SPDX-License-Identifier: Apache-2.0

"""Groups of ranks and the ranks in them, with the meaning of MindSpore's functions of the same names.

Every function is about the world of the calling thread (`run_ranks`), else about that of the process (`init`).
"""

from . import _checks, _core

WORLD = "world"


def create_group(group: str, rank_ids: list[int]) -> None:
    """Create a group of world ranks under a name.

    Every member calls this function with the same list; other ranks do not. The call does not wait. The first sum in
    the group connects it; if the members' lists differ, that sum raises a MismatchError.

    Parameters
    ----------
    group : str
        Name of the group. A second call with the same name and list does nothing.
    rank_ids : list of int
        World ranks. The position in the list is the rank in the group.

    Raises
    ------
    TypeError
        `group` is not a str, or `rank_ids` is not a list of ints.
    InvalidArgument
        (A ValueError.) The list is empty, has duplicates or has a rank outside [0, world size), or the name belongs to
        a group with another list.
    GroupError
        The world is not initialized, or this rank is not in the list.

    Examples
    --------
    >>> import syncbn
    >>> def body(rank):
    ...     ranks = [0, 1] if rank < 2 else [2, 3]
    ...     name = f"pair {ranks}"
    ...     syncbn.create_group(name, ranks)
    ...     return name, syncbn.get_rank(name)
    >>> syncbn.run_ranks(4, body)
    [('pair [0, 1]', 0), ('pair [0, 1]', 1), ('pair [2, 3]', 0), ('pair [2, 3]', 1)]
    """
    _core.create_group(_checks.string("group", group), _checks.ranks("rank_ids", rank_ids))


def new_group(rank_ids: list[int]) -> str:
    """Create the group of these world ranks in ascending order, and return its name, which is made from the ranks.

    On a rank that is not a member the call does nothing, so a program may create every group on every rank.

    Returns
    -------
    str
        The group's name, or "" if this rank is not a member.

    Raises
    ------
    TypeError, InvalidArgument, GroupError
        As for `create_group`.
    """
    return _core.new_group(_checks.ranks("rank_ids", rank_ids))


def destroy_group(group: str) -> None:
    """Drop a group. Its name may be used again.

    Raises
    ------
    TypeError
        `group` is not a str.
    InvalidArgument
        (A ValueError.) `group` is the world's group.
    GroupError
        The group is unknown, or the world is not initialized.
    """
    _core.destroy_group(_checks.string("group", group))


def get_rank(group: str = WORLD) -> int:
    """Return this rank's position in the group.

    Before `init`, this function and the next three answer for the world from the launcher's environment.

    Raises
    ------
    TypeError
        `group` is not a str.
    GroupError
        The group is unknown, or the world is not initialized or was released.
    """
    return _core.get_rank(_checks.string("group", group))


def get_group_size(group: str = WORLD) -> int:
    """Return the number of ranks in the group. Raises the errors of `get_rank`."""
    return _core.get_group_size(_checks.string("group", group))


def get_local_rank(group: str = WORLD) -> int:
    """Return the number of lower ranks of the group on this host. Raises the errors of `get_rank`."""
    return _core.get_local_rank(_checks.string("group", group))


def get_local_rank_size(group: str = WORLD) -> int:
    """Return the number of the group's ranks on this host. Raises the errors of `get_rank`."""
    return _core.get_local_rank_size(_checks.string("group", group))


def get_world_rank_from_group_rank(group: str, group_rank_id: int) -> int:
    """Return the world rank of the group's member at position `group_rank_id`.

    Raises
    ------
    TypeError
        `group` is not a str, or `group_rank_id` is not an int.
    InvalidArgument
        (A ValueError.) `group_rank_id` is negative.
    GroupError
        The group is unknown or has no such position, or the world is not initialized.
    """
    _checks.string("group", group)
    return _core.get_world_rank_from_group_rank(group, _checks.integer("group_rank_id", group_rank_id, 32))


def get_group_rank_from_world_rank(world_rank_id: int, group: str) -> int:
    """Return the position of a world rank in the group.

    Raises
    ------
    TypeError
        `group` is not a str, or `world_rank_id` is not an int.
    InvalidArgument
        (A ValueError.) `world_rank_id` is negative.
    GroupError
        The group is unknown or lacks the rank, or the world is not initialized.
    """
    _checks.string("group", group)
    return _core.get_group_rank_from_world_rank(_checks.integer("world_rank_id", world_rank_id, 32), group)
