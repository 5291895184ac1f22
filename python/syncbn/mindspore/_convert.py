# SPDX-License-Identifier: Apache-2.0

"""Conversion of MindSpore's batch norms to SyncBatchNorm, and back."""

import warnings
from typing import Optional

import mindspore
from mindspore import Tensor, mint, nn

from ._layer import SyncBatchNorm
from ._private import CAST_BY_TO_FLOAT, cells_of, has_hooks, parameters_of

_NN = {f"nn.{cls.__name__}": cls for cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)}
_MINT = {f"mint.nn.{cls.__name__}": cls
         for cls in (mint.nn.BatchNorm1d, mint.nn.BatchNorm2d, mint.nn.BatchNorm3d, mint.nn.SyncBatchNorm)}
_KEYS = {cls: key for key, cls in (_NN | _MINT).items()}
_NAMES_IN_NN = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def convert_sync_batchnorm(cell: nn.Cell, process_group: Optional[str] = None) -> nn.Cell:
    """Replace `cell`'s layers of exactly the types BatchNorm1d, 2d, 3d and SyncBatchNorm of mindspore.nn and mint.nn.

    A new layer has the parameters of the layer that it replaces, under the same names: optimizers and checkpoints fit both
    nets. It also has its mode and its to_float(), and its path in `cell` as name. The momentum of a layer of mindspore.nn
    is the weight of the old statistics: 0.9 there is 0.1 here. Some layers are left as they are, and a warning lists them:
    subclasses, layers with hooks, and layers whose use_batch_statistics is not None.

    Parameters
    ----------
    cell : mindspore.nn.Cell
        Changed in place. If `cell` is itself such a layer, it stays as it is and a new layer is returned.
    process_group : str or None
        The MindSpore group whose ranks share statistics. None: the group of a SyncBatchNorm, for other layers the world.

    Returns
    -------
    mindspore.nn.Cell
        `cell`, or the layer in its place.

    Raises
    ------
    TypeError, syncbn.GroupError
        As for SyncBatchNorm. Nothing is changed then.
    """
    left = []

    def replacement(layer, path):
        if isinstance(layer, SyncBatchNorm) or not isinstance(layer, tuple(_KEYS)):
            return None
        why = _why_not(layer)
        if why:
            left.append(f"{path or 'cell'} ({type(layer).__name__}): {why}")
            return layer
        return _converted(layer, path, process_group)

    result = _replaced(cell, replacement)
    if left:
        warnings.warn("convert_sync_batchnorm left these layers as they are: " + "; ".join(left), stacklevel=2)
    return result


def revert_sync_batchnorm(cell: nn.Cell) -> nn.Cell:
    """Replace the `SyncBatchNorm` layers of `cell` by MindSpore's, for graph mode and mindspore.export.

    This is the inverse of `convert_sync_batchnorm`: a converted layer becomes a layer of its earlier class, with the present
    values. Any other layer becomes a mindspore.mint.nn.SyncBatchNorm. Subclasses and layers with hooks are left as they
    are, and a warning lists them.

    Parameters
    ----------
    cell : mindspore.nn.Cell
        Changed in place. If `cell` is itself such a layer, it stays as it is and a new layer is returned.

    Returns
    -------
    mindspore.nn.Cell
        `cell`, or the layer in its place.
    """
    left = []

    def replacement(layer, path):
        if not isinstance(layer, SyncBatchNorm):
            return None
        if type(layer) is not SyncBatchNorm or has_hooks(layer):
            left.append(f"{path or 'cell'} ({type(layer).__name__})")
            return layer
        return _reverted(layer)

    result = _replaced(cell, replacement)
    if left:
        warnings.warn("revert_sync_batchnorm left these layers as they are, which are subclasses or have hooks: "
                      + "; ".join(left), stacklevel=2)
    return result


def _why_not(layer):
    if type(layer) not in _KEYS:
        return "a subclass"
    if has_hooks(layer):
        return "it has hooks"
    use_batch_statistics = getattr(_holder(layer), "use_batch_statistics", None)
    if use_batch_statistics is not None:
        return f"use_batch_statistics={use_batch_statistics}"
    return None


def _holder(layer):
    """The Cell that holds the parameters of one of MindSpore's layers."""
    return layer.bn2d if type(layer) is nn.BatchNorm3d else layer


def _converted(layer, path, process_group):
    key, holder = _KEYS[type(layer)], _holder(layer)
    parameters = parameters_of(holder)
    if key in _NN:
        # MindSpore holds 1 - momentum, which is not exactly the decimal fraction that was meant.
        momentum, affine, track = round(holder.momentum, 15), True, True
        group = getattr(layer, "group_name", None)
    else:
        momentum, affine, track = holder.momentum, holder.affine, holder.track_running_stats
        group = getattr(layer, "process_group", None)
    dtype = next((p.dtype for p in parameters.values() if p is not None), mindspore.float32)
    result = SyncBatchNorm(holder.num_features, float(holder.eps), momentum, affine, track, process_group or group, dtype,
                           name=path or None)
    prefix = "" if holder is layer else "bn2d."
    parameters_of(result).clear()
    parameters_of(result).update({prefix + name: parameter for name, parameter in parameters.items()})
    if key in _NN:
        result._parameter_names = {ours: prefix + theirs for ours, theirs in _NAMES_IN_NN.items()}
        result.num_batches_tracked = Tensor(0, mindspore.int64)
    result._converted_from = key
    return _like(layer, result)


def _reverted(layer):
    key = layer._converted_from or "mint.nn.SyncBatchNorm"
    if key in _NN:
        arguments = {"momentum": 1 - layer.momentum}
    else:
        arguments = {"momentum": layer.momentum, "affine": layer.affine, "track_running_stats": layer.track_running_stats}
    if key == "mint.nn.SyncBatchNorm":
        arguments["process_group"] = layer.process_group
    result = (_NN | _MINT)[key](layer.num_features, layer.eps, **arguments, dtype=layer.dtype)
    holder = _holder(result)
    own = parameters_of(holder)
    own.update({name: parameter for name, parameter in zip(own, parameters_of(layer).values(), strict=True)})
    return _like(layer, result)


def _like(layer, result):
    result.set_train(layer.training)
    if layer.mixed_precision_type in CAST_BY_TO_FLOAT:
        result.to_float(CAST_BY_TO_FLOAT[layer.mixed_precision_type])
    return result


def _replaced(cell, replacement):
    """`cell` with each layer replaced by `replacement(layer, path)`, which is called once for each.

    None is for Cells that are not to be replaced, but have children. Nothing is changed until all replacements are made.
    """
    visited = {}
    changes = []

    def visit(part, path):
        if id(part) in visited:
            return visited[id(part)]
        visited[id(part)] = part
        made = replacement(part, path)
        if made is not None:
            visited[id(part)] = made
            return made
        for name, child in cells_of(part).items():
            if child is not None:
                changes.append((part, name, visit(child, f"{path}.{name}" if path else name)))
        return part

    result = visit(cell, "")
    for part, name, child in changes:
        cells_of(part)[name] = child
        if isinstance(part, nn.SequentialCell):
            part.cell_list = list(cells_of(part).values())  # what it calls
    return result
