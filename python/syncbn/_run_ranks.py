# SPDX-License-Identifier: Apache-2.0

"""Ranks as threads of one process."""

from collections.abc import Callable
from typing import TypeVar

from . import _checks, _core
from ._errors import GroupError, PeerError, TimeoutError

T = TypeVar("T")


def run_ranks(size: int, body: Callable[[int], T]) -> list[T]:
    """Run `body(rank)` on `size` ranks, each a thread of this process, and return their results.

    All functions of this package that `body` calls, and all layers that it makes, belong to the world of these ranks. A
    rank that waits for a failed or finished rank gets a PeerError at once. Numerical work runs outside the GIL.

    Parameters
    ----------
    size : int
        Number of ranks.
    body : callable
        Called on each rank with the rank's number.

    Returns
    -------
    list
        The results of `body` in the order of the ranks.

    Raises
    ------
    BaseException
        The exception of a failed rank. If several ranks failed, that of the lowest rank whose failure was not the
        effect of another rank's failure.

    Examples
    --------
    >>> import syncbn
    >>> syncbn.run_ranks(3, lambda rank: (rank, syncbn.get_group_size()))
    [(0, 3), (1, 3), (2, 3)]
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
    """0 to 2: how likely this error is the effect of another rank's failure."""
    if isinstance(error, PeerError):
        return 2
    return 1 if isinstance(error, (GroupError, TimeoutError)) else 0
