"""From torch's batch norms to synchronized ones, and back."""

import warnings
from typing import Any, Optional

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from ._layer import Own, SyncBatchNorm

_ORIGINS = {cls.__name__: cls for cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)}
_MEMBERS = "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"
# They use the batch norm they own in ways of their own.
_FUSED_PACKAGES = ("torch.ao.nn.", "torch.nn.intrinsic.", "torch.nn.qat.", "torch.nn.quantizable.")


def convert_sync_batchnorm(module: nn.Module, process_group: Any = None) -> nn.Module:
    """Replace `module`'s layers of exactly the types BatchNorm1d, 2d, 3d and torch.nn.SyncBatchNorm.

    A new layer has the same parameters and buffers, hooks, attributes and mode; a layer that is used twice stays one.
    Subclasses (parametrized layers are such), layers inside fused and quantization-aware modules, and layers whose
    `forward` was replaced are left as they are; a warning lists them.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; where it is itself such a layer it stays as it is.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks that share statistics; None: the default group, or that of the torch.nn.SyncBatchNorm replaced.

    Returns
    -------
    torch.nn.Module
        `module`, or the layer in its place.

    Raises
    ------
    ValueError
        For a lazy layer without parameters yet and for a batch norm in a ScriptModule. Nothing is then changed.
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
        return _same(layer, SyncBatchNorm, Own.of(group, origin=type(layer).__name__))

    result = _replaced(module, replacement)
    if left:
        warnings.warn("convert_sync_batchnorm left these layers as they are: " + "; ".join(left), stacklevel=2)
    return result


def revert_sync_batchnorm(module: nn.Module, spatial_dims: Optional[int] = None) -> nn.Module:
    """Replace `module`'s `SyncBatchNorm` layers by what they were converted from, or by BatchNorm1d, 2d or 3d.

    After convert_sync_batchnorm this restores what was there, with the values of now.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; where it is itself such a layer it stays as it is.
    spatial_dims : 1, 2 or 3, optional
        What layers become that were not made by a conversion: (N, C, ...) inputs tell it at each call only.

    Returns
    -------
    torch.nn.Module
        `module`, or the layer in its place.

    Raises
    ------
    ValueError
        For a layer that needs `spatial_dims`, and for one with an activation or a policy for statistics that are not
        finite, which torch's layers do not have. Nothing is then changed.
    """
    if spatial_dims not in (None, 1, 2, 3):
        raise ValueError(f"spatial_dims: {spatial_dims!r}, expected 1, 2 or 3")
    for path, layer in module.named_modules():
        if type(layer) is not SyncBatchNorm:
            continue
        if layer._own.origin is None and spatial_dims is None:
            raise ValueError(f"{path or 'module'}: this layer was not converted from another; spatial_dims must say "
                             "whether it becomes BatchNorm1d, 2d or 3d")
        if layer.activation is not None or layer.nonfinite != "propagate":
            raise ValueError(f"{path or 'module'}: activation={layer.activation!r}, nonfinite={layer.nonfinite!r}, "
                             "which torch's batch norms do not have")

    def replacement(layer, path, fused):
        if type(layer) is not SyncBatchNorm:
            return layer
        result = _same(layer, _ORIGINS[layer._own.origin or f"BatchNorm{spatial_dims}d"], None)
        if type(result) is nn.SyncBatchNorm:
            result.process_group = layer.process_group
        return result

    return _replaced(module, replacement)


def _check_convertible(module):
    for path, layer in module.named_modules():
        if isinstance(layer, _LazyNormBase) and layer.has_uninitialized_params():
            raise ValueError(f"{path or 'module'}: {type(layer).__name__} has no parameters yet; convert it after its "
                             "first forward")
        if isinstance(layer, torch.jit.ScriptModule) and getattr(layer, "original_name", "") in _ORIGINS:
            raise ValueError(f"{path or 'module'}: a ScriptModule can't be changed; convert before scripting")


def _why_not(layer, fused):
    if fused:
        return "part of a fused or quantization-aware module"
    if type(layer).__name__ not in _ORIGINS or type(layer) is not _ORIGINS[type(layer).__name__]:
        return "a subclass"
    if "forward" in vars(layer):
        return "has a forward of its own"
    return None


def _is_fused(module):
    return any(cls.__module__.startswith(_FUSED_PACKAGES) for cls in type(module).__mro__)


def _replaced(module, replacement):
    """`replacement(layer, path, fused)` in the place of every batch norm, each asked for once."""
    made = {}

    def visit(part, path, fused):
        if id(part) in made:
            return made[id(part)]
        if isinstance(part, _BatchNorm):
            made[id(part)] = replacement(part, path, fused)
            return made[id(part)]
        made[id(part)] = part
        for name, child in part._modules.items():
            if child is not None:
                part._modules[name] = visit(child, f"{path}.{name}" if path else name, fused or _is_fused(part))
        return part

    return visit(module, "", False)


def _same(layer, cls, own):
    """A layer of another class with everything that makes up this one. A change of one of the two, of a parameter or
    buffer for another, is none of the other. Registries of hooks are shared: handles remove hooks from them."""
    result = cls.__new__(cls)
    state = {key: value for key, value in vars(layer).items() if key not in ("_own", "process_group")}
    vars(result).update(state, **{key: state[key].copy() for key in _MEMBERS})
    if own is not None:
        vars(result)["_own"] = own
    return result
