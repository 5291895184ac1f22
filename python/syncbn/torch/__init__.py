"""Synchronized batch normalization for PyTorch on CPU: a module in place of `torch.nn.SyncBatchNorm`.

Its statistics are those of the batch that all ranks of a `torch.distributed` group bring together, and have the same
bits however the batch is spread over them.
"""

from ._convert import convert_sync_batchnorm, revert_sync_batchnorm
from ._layer import SyncBatchNorm

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm", "revert_sync_batchnorm"]
