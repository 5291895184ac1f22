# SPDX-License-Identifier: Apache-2.0

"""Synchronized batch normalization for MindSpore, in PyNative mode on CPU.

`SyncBatchNorm` has the signature, the parameters and the meaning of `mindspore.mint.nn.SyncBatchNorm`. To use it, change
the import::

    from syncbn.mindspore import SyncBatchNorm

`convert_sync_batchnorm` replaces the batch norms of a whole net.

Ranks and groups are MindSpore's own (`mindspore.communication`), and MindSpore carries the sums.
"""

from .._public import set_public_module
from ._convert import convert_sync_batchnorm, revert_sync_batchnorm
from ._layer import SyncBatchNorm

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm", "revert_sync_batchnorm"]

set_public_module(__name__, [SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm])
