"""Ranks and groups, with the meaning of MindSpore's functions of the same names.

Every function speaks of the calling thread's world (`run_ranks`), else of the process's (`init`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from . import _checks, _core
from ._errors import GroupError, InvalidArgument, PeerError, TimeoutError

WORLD = "world"
T = TypeVar("T")


def init(
    backend: str = "auto",
    *,
    rank: int | None = None,
    size: int | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    timeout: float | None = None,
    token: str = "",
) -> None:
    """Join the world of ranks that the launcher's environment describes, or that the keywords do.

    Parameters
    ----------
    backend : {"auto", "gloo", "mpi", "simulation"}
        Which engine carries the sums. "auto" is what the environment asks for.
    rank, size : int, optional
        Given together, they and the keywords below describe the world, whatever the environment says; the
        backend is then "gloo" unless it is named.
    host : str
        Where rank 0 serves the rendezvous (gloo).
    port : int
        Its TCP port.
    timeout : float, optional
        Seconds of every call; None is SYNCBN_TIMEOUT_S, else 300.
    token : str
        Shared secret of the job; "" is SYNCBN_TOKEN.

    Raises
    ------
    GroupError
        Contradicting or half-set variables, an engine that this package has not or whose library is not
        installed, or, with `rank` and `size`, a world that was joined before.
    TimeoutError, PeerError
        Not all ranks came.

    Notes
    -----
    Without a launcher the world has one rank. A second call without keywords does nothing.
    """
    _checks.choice("backend", backend, ("auto", "gloo", "mpi", "simulation"))
    if rank is None and size is None:
        if (host, port, timeout, token) != ("127.0.0.1", 0, None, ""):
            raise InvalidArgument(f"host: {host!r}, port: {port!r}, timeout: {timeout!r}, token: expected together with "
                                  "rank and size only")
        _core.init(backend)
        return
    if rank is None or size is None:
        raise InvalidArgument(f"rank: {rank}, size: {size}, expected both or none")
    _core.init_as(
        rank=_checks.integer("rank", rank, 32),
        size=_checks.integer("size", size, 32),
        host=_checks.string("host", host),
        port=_checks.integer("port", port, 32),
        backend="gloo" if backend == "auto" else backend,
        timeout=None if timeout is None else _checks.real("timeout", timeout),
        token=_checks.string("token", token),
    )


def is_initialized() -> bool:
    """Whether this rank is in a world: after `init`, or in a body of `run_ranks`."""
    return _core.is_initialized()


def release() -> None:
    """Leave the world and drop every group; `init` may follow.

    Layers that still hold a group get a GroupError at their next training call.

    Raises
    ------
    GroupError
        Not initialised.
    """
    _core.release()


def create_group(group: str, rank_ids: list[int]) -> None:
    """Name a list of world ranks.

    Called by its members only, each with the same list; waits for nobody. The group is connected by its first
    sum, where differing lists are a MismatchError.

    Parameters
    ----------
    group : str
        The same name with the same list again does nothing.
    rank_ids : list of int
        World ranks; the position in the list is the rank in the group.

    Raises
    ------
    TypeError
        `group` is no str, or `rank_ids` no list of ints.
    InvalidArgument
        (A ValueError.) Empty list, duplicates, a rank outside [0, world size), or a name that another list
        has.
    GroupError
        Not initialised, or this rank is not in the list.
    """
    _core.create_group(_checks.string("group", group), _checks.ranks("rank_ids", rank_ids))


def new_group(rank_ids: list[int]) -> str:
    """Make the group of these world ranks in ascending order, under a name made from them.

    Where this rank is no member nothing happens, so that a program may make every group on every rank.

    Returns
    -------
    str
        The group's name, or "" where this rank is no member.

    Raises
    ------
    TypeError, InvalidArgument, GroupError
        As `create_group`.
    """
    return _core.new_group(_checks.ranks("rank_ids", rank_ids))


def destroy_group(group: str) -> None:
    """Forget the group; its name is free again.

    Raises
    ------
    TypeError
        `group` is no str.
    InvalidArgument
        (A ValueError.) The world's group.
    GroupError
        Unknown group, or not initialised.
    """
    _core.destroy_group(_checks.string("group", group))


def get_rank(group: str = WORLD) -> int:
    """Return this rank's position in the group.

    Before `init`, for the world only, this and the three next functions answer from the launcher's environment.

    Raises
    ------
    TypeError
        `group` is no str.
    GroupError
        Unknown group, not initialised, or released.
    """
    return _core.get_rank(_checks.string("group", group))


def get_group_size(group: str = WORLD) -> int:
    """Return the number of ranks in the group. Raises as `get_rank`."""
    return _core.get_group_size(_checks.string("group", group))


def get_local_rank(group: str = WORLD) -> int:
    """Return how many ranks before this one in the group are on its host. Raises as `get_rank`."""
    return _core.get_local_rank(_checks.string("group", group))


def get_local_rank_size(group: str = WORLD) -> int:
    """Return the number of the group's ranks on this host. Raises as `get_rank`."""
    return _core.get_local_rank_size(_checks.string("group", group))


def get_world_rank_from_group_rank(group: str, group_rank_id: int) -> int:
    """Return the world rank of the group's member at position `group_rank_id`.

    Raises
    ------
    TypeError
        `group` is no str, or `group_rank_id` no int.
    InvalidArgument
        (A ValueError.) Negative.
    GroupError
        Unknown group, no such position, or not initialised.
    """
    _checks.string("group", group)
    return _core.get_world_rank_from_group_rank(group, _checks.integer("group_rank_id", group_rank_id, 32))


def get_group_rank_from_world_rank(world_rank_id: int, group: str) -> int:
    """Return the position of the world rank in the group.

    Raises
    ------
    TypeError
        `group` is no str, or `world_rank_id` no int.
    InvalidArgument
        (A ValueError.) Negative.
    GroupError
        Unknown group, the rank is not in it, or not initialised.
    """
    _checks.string("group", group)
    return _core.get_group_rank_from_world_rank(_checks.integer("world_rank_id", world_rank_id, 32), group)


def all_reduce_sum(values: np.ndarray, group: str = WORLD) -> None:
    """Replace each value by its sum over the ranks of the group, exact and rounded once.

    The bits do not depend on the order of the ranks. With it a data-parallel program adds its gradients.

    Parameters
    ----------
    values : numpy.ndarray of float32 or float64
        C-contiguous and writable; every rank brings the same size and dtype.
    group : str

    Raises
    ------
    TypeError
        `values` is no such array, or `group` no str.
    MismatchError, PeerError, TimeoutError, GroupError
        `values` is then unchanged.
    """
    _checks.string("group", group)
    if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float64):
        raise TypeError(f"values: {type(values).__name__} of {getattr(values, 'dtype', None)}, expected a NumPy "
                        "array of float32 or float64")
    if not (values.flags.c_contiguous and values.flags.writeable and values.flags.aligned):
        raise InvalidArgument("values: expected a C-contiguous, writable array")
    _core.all_reduce_sum(values.ctypes.data, values.size, values.dtype == np.float64, group)


def run_ranks(size: int, body: Callable[[int], T]) -> list[T]:
    """Run `body(rank)` on `size` ranks as threads of this process, and return what each returned.

    Each thread has a world of its own, of which every function here and every layer made by `body` speaks. A rank
    that waits for one that has failed or ended gets a PeerError at once. Numerical work runs outside the GIL.

    Parameters
    ----------
    size : int
    body : callable

    Returns
    -------
    list
        In the order of the ranks.

    Raises
    ------
    BaseException
        What a failed rank has raised: the lowest rank's among those that failed of themselves, not as an effect of
        another.
    """
    size = _checks.integer("size", size, 32)
    if not callable(body):
        raise TypeError(f"body: {body!r}, expected a callable that takes the rank")
    results: list = [None] * max(size, 0)
    failed = []

    def rank_body(rank):
        try:
            results[rank] = body(rank)
        except BaseException as error:
            failed.append((_is_effect(error), rank, error))
            raise

    try:
        _core.run_ranks(size, rank_body)
    except Exception:
        if not failed:
            raise
    if failed:
        raise min(failed, key=lambda entry: entry[:2])[2]
    return results


def _is_effect(error):
    """How likely it is that an error is the effect of another rank's."""
    if isinstance(error, PeerError):
        return 2
    return 1 if isinstance(error, (GroupError, TimeoutError)) else 0
