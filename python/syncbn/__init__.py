# SPDX-License-Identifier: Apache-2.0

"""Synchronized batch normalization whose results do not depend on how the batch is split over the ranks.

`SyncBatchNorm` in this module works on NumPy arrays. `syncbn.torch` and `syncbn.mindspore` have the layer for these
frameworks.
"""

from ._all_reduce_matmul import all_reduce_matmul
from ._all_reduce_sum import all_reduce_sum
from ._core import bits_version
from ._core import version as __version__
from ._errors import Error, GroupError, InvalidArgument, MismatchError, PeerError, TimeoutError
from ._groups import (
    create_group,
    destroy_group,
    get_group_rank_from_world_rank,
    get_group_size,
    get_local_rank,
    get_local_rank_size,
    get_rank,
    get_world_rank_from_group_rank,
    new_group,
)
from ._layer import SyncBatchNorm
from ._processor import active_isa, available_isas, get_num_threads, set_num_threads
from ._public import set_public_module
from ._run_ranks import run_ranks
from ._world import init, is_initialized, release

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
    "all_reduce_matmul",
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

set_public_module(__name__, [globals()[name] for name in __all__])
