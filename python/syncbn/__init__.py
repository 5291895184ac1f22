"""Synchronized batch normalization whose results do not depend on how the batch is spread."""

from ._core import __version__, bits_version
from ._errors import Error, GroupError, InvalidArgument, MismatchError, PeerError, TimeoutError
from ._groups import (create_group, destroy_group, get_group_rank_from_world_rank, get_group_size, get_local_rank,
                      get_local_rank_size, get_rank, init, is_initialized, new_group, release, run_ranks)
from ._layer import SyncBatchNorm
