"""Synchronized batch normalization whose results do not depend on how the batch is spread.

`SyncBatchNorm` here works on NumPy arrays; `syncbn.torch` and `syncbn.mindspore` have the layer as a module of these
frameworks.
"""

from ._core import active_isa, available_isas, bits_version, get_num_threads
from ._core import version as __version__
from ._errors import Error, GroupError, InvalidArgument, MismatchError, PeerError, TimeoutError
from ._groups import (
    all_reduce_sum,
    create_group,
    destroy_group,
    get_group_rank_from_world_rank,
    get_group_size,
    get_local_rank,
    get_local_rank_size,
    get_rank,
    get_world_rank_from_group_rank,
    init,
    is_initialized,
    new_group,
    release,
    run_ranks,
)
from ._layer import SyncBatchNorm
from ._processor import set_num_threads

__all__ = [
    "Error",
    "GroupError",
    "InvalidArgument",
    "MismatchError",
    "PeerError",
    "SyncBatchNorm",
    "TimeoutError",
    "__version__",
    "active_isa",
    "all_reduce_sum",
    "available_isas",
    "bits_version",
    "create_group",
    "destroy_group",
    "get_group_rank_from_world_rank",
    "get_group_size",
    "get_local_rank",
    "get_local_rank_size",
    "get_num_threads",
    "get_rank",
    "get_world_rank_from_group_rank",
    "init",
    "is_initialized",
    "new_group",
    "release",
    "run_ranks",
    "set_num_threads",
]
