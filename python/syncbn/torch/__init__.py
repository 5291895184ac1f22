# SPDX-License-Identifier: Apache-2.0

"""Synchronized batch normalization for PyTorch on CPU: a module in place of `torch.nn.SyncBatchNorm`.

Its statistics are those of the batch of all ranks of a `torch.distributed` process group. They have the same bits for
every split of the batch over the ranks.
"""

from .._public import set_public_module
from ._convert import convert_sync_batchnorm, name_layers, revert_sync_batchnorm
from ._layer import SyncBatchNorm, SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d

__all__ = [
    "SyncBatchNorm",
    "SyncBatchNorm1d",
    "SyncBatchNorm2d",
    "SyncBatchNorm3d",
    "convert_sync_batchnorm",
    "name_layers",
    "revert_sync_batchnorm",
]

set_public_module(__name__, [globals()[name] for name in __all__])
