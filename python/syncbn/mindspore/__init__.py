"""Synchronized batch normalization for MindSpore, in PyNative mode on CPU.

`SyncBatchNorm` has the signature, the parameters and the meaning of `mindspore.mint.nn.SyncBatchNorm`, whose place it
takes by an import line::

    from syncbn.mindspore import SyncBatchNorm

Ranks and groups are MindSpore's own (`mindspore.communication`), and MindSpore carries the sums.
"""

from ._layer import SyncBatchNorm

__all__ = ["SyncBatchNorm"]
