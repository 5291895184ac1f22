"""Ranks and groups, with the meaning of MindSpore's functions of the same names."""

from ._core import (  # noqa: F401
    create_group,
    destroy_group,
    get_group_rank_from_world_rank,
    is_initialized,
    new_group,
    release,
)
from . import _core

WORLD = "world"


def init(backend="auto"):
    _core.init(backend)


def get_rank(group=WORLD):
    return _core.get_rank(group)


def get_group_size(group=WORLD):
    return _core.get_group_size(group)


def get_local_rank(group=WORLD):
    return _core.get_local_rank(group)


def get_local_rank_size(group=WORLD):
    return _core.get_local_rank_size(group)


def run_ranks(size, body):
    """Run `body(rank)` on `size` ranks as threads of this process; return what each returned."""
    results = [None] * size

    def rank_body(rank):
        results[rank] = body(rank)

    _core.run_ranks(size, rank_body)
    return results
