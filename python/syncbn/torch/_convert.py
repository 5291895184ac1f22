# SPDX-License-Identifier: Apache-2.0

"""Conversion of torch's batch norms to SyncBatchNorm, and back."""

import warnings
from typing import Any, Optional

import torch
from torch import nn

from ._extra_options import ExtraOptions
from ._layer import SyncBatchNorm
from ._private import MODULE_MEMBERS, BatchNormBase, LazyNormBase

_CONVERTIBLE = {cls.__name__: cls for cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)}
# Packages whose modules read the batch norm inside them instead of calling it.
_FUSED_PACKAGES = ("torch.ao.nn.", "torch.nn.intrinsic.", "torch.nn.qat.", "torch.nn.quantizable.")


def convert_sync_batchnorm(module: nn.Module, process_group: Any = None) -> nn.Module:
    """Replace `module`'s layers of exactly the types BatchNorm1d, 2d, 3d and torch.nn.SyncBatchNorm.

    A new layer has the parameters, buffers, hooks, attributes and mode of the layer that it replaces. A layer that is used
    twice is replaced by one layer. Some layers are left as they are, and a warning lists them: subclasses (which
    parametrized layers are), layers inside fused and quantization-aware modules, and layers whose `forward` was replaced.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. If `module` is itself such a layer, it stays as it is and a new layer is returned.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks that share statistics. None: the default group, or the group of a torch.nn.SyncBatchNorm.

    Returns
    -------
    torch.nn.Module
        `module`, or the layer in its place.

    Raises
    ------
    ValueError
        A lazy layer has no parameters yet, or a batch norm is in a ScriptModule. Nothing is changed then.

    Examples
    --------
    >>> from torch import nn
    >>> from syncbn.torch import convert_sync_batchnorm
    >>> model = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    >>> type(model[1])
    <class 'syncbn.torch.SyncBatchNorm'>
    """
    _check_convertible(module)
    left = []

    def replacement(layer, path, fused):
        if type(layer) is SyncBatchNorm:
            return layer
        why = _why_not(layer, fused)
        if why:
            left.append(f"{path or 'module'} ({type(layer).__name__}): {why}")
            return layer
        group = process_group
        if group is None and type(layer) is nn.SyncBatchNorm:
            group = layer.process_group
        return _recreated(layer, SyncBatchNorm, ExtraOptions.create(group, converted_from=type(layer).__name__))

    result = _replaced(module, replacement)
    if left:
        warnings.warn("convert_sync_batchnorm left these layers as they are: " + "; ".join(left), stacklevel=2)
    return result


def revert_sync_batchnorm(module: nn.Module, spatial_dims: Optional[int] = None) -> nn.Module:
    """Replace the `SyncBatchNorm` layers of `module` by torch's batch norms.

    This is the inverse of `convert_sync_batchnorm`: a converted layer becomes a layer of its earlier class, with the
    present values.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. If `module` is itself such a layer, it stays as it is and a new layer is returned.
    spatial_dims : 1, 2 or 3, optional
        Makes BatchNorm1d, 2d or 3d of the layers that were not converted from another layer.

    Returns
    -------
    torch.nn.Module
        `module`, or the layer in its place.

    Raises
    ------
    ValueError
        A layer needs `spatial_dims`, or has an `activation` or a `nonfinite` that torch's layers do not have. Nothing is
        changed then.
    """
    if spatial_dims not in (None, 1, 2, 3):
        raise ValueError(f"spatial_dims: {spatial_dims!r}, expected 1, 2 or 3")
    for path, layer in module.named_modules():
        if type(layer) is not SyncBatchNorm:
            continue
        if layer._extra.converted_from is None and spatial_dims is None:
            raise ValueError(f"{path or 'module'}: this layer was not converted from another; spatial_dims must say "
                             "whether it becomes BatchNorm1d, 2d or 3d")
        if layer.activation is not None or layer.nonfinite != "propagate":
            raise ValueError(f"{path or 'module'}: activation={layer.activation!r}, nonfinite={layer.nonfinite!r}, "
                             "which torch's batch norms do not have")

    def replacement(layer, path, fused):
        if type(layer) is not SyncBatchNorm:
            return layer
        result = _recreated(layer, _CONVERTIBLE[layer._extra.converted_from or f"BatchNorm{spatial_dims}d"], None)
        if type(result) is nn.SyncBatchNorm:
            result.process_group = layer.process_group
        return result

    return _replaced(module, replacement)


def _check_convertible(module):
    for path, layer in module.named_modules():
        if isinstance(layer, LazyNormBase) and layer.has_uninitialized_params():
            raise ValueError(f"{path or 'module'}: {type(layer).__name__} has no parameters yet; convert it after its "
                             "first forward")
        if isinstance(layer, torch.jit.ScriptModule) and getattr(layer, "original_name", "") in _CONVERTIBLE:
            raise ValueError(f"{path or 'module'}: a ScriptModule can't be changed; convert before torch.jit.script")


def _why_not(layer, fused):
    if fused:
        return "part of a fused or quantization-aware module"
    if type(layer).__name__ not in _CONVERTIBLE or type(layer) is not _CONVERTIBLE[type(layer).__name__]:
        return "a subclass"
    if "forward" in vars(layer):
        return "its forward was replaced"
    return None


def _is_fused(module):
    return any(cls.__module__.startswith(_FUSED_PACKAGES) for cls in type(module).__mro__)


def _replaced(module, replacement):
    """`module` with every batch norm replaced by `replacement(layer, path, fused)`, which is called once for each."""
    visited = {}

    def visit(part, path, fused):
        if id(part) in visited:
            return visited[id(part)]
        if isinstance(part, BatchNormBase):
            visited[id(part)] = replacement(part, path, fused)
            return visited[id(part)]
        visited[id(part)] = part
        for name, child in part._modules.items():
            if child is not None:
                part._modules[name] = visit(child, f"{path}.{name}" if path else name, fused or _is_fused(part))
        return part

    return visit(module, "", False)


def _recreated(layer, cls, extra):
    """A layer of another class with the attributes of `layer`, and with the ExtraOptions `extra` unless None.

    Both layers have the same parameters and buffers until one of the two gets others. They share the registries of hooks,
    from which handles remove their hooks.
    """
    result = cls.__new__(cls)
    state = {key: value for key, value in vars(layer).items() if key not in ("_extra", "process_group")}
    vars(result).update(state, **{key: state[key].copy() for key in MODULE_MEMBERS})
    if extra is not None:
        vars(result)["_extra"] = extra
    return result
