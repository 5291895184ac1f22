# SPDX-License-Identifier: Apache-2.0

"""Conversion of torch's batch norms to SyncBatchNorm, and back."""

import warnings
from collections.abc import Mapping
from typing import Any, Optional, TypeVar

import torch
from torch import nn

from .._errors import InvalidArgument
from ._extra_options import ExtraOptions
from ._layer import SyncBatchNorm, SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d
from ._private import MODULE_MEMBERS, BatchNormBase, LazyNormBase

Module = TypeVar("Module", bound=nn.Module)

#: The class that replaces each of torch's. DistributedDataParallel refuses a torch.nn.SyncBatchNorm on CPU, so that class has
#: no subclass here.
_REPLACEMENTS = {nn.BatchNorm1d: SyncBatchNorm1d, nn.BatchNorm2d: SyncBatchNorm2d, nn.BatchNorm3d: SyncBatchNorm3d,
                 nn.SyncBatchNorm: SyncBatchNorm}
# Packages whose modules read the batch norm inside them instead of calling it.
_FUSED_PACKAGES = ("torch.ao.nn.", "torch.nn.intrinsic.", "torch.nn.qat.", "torch.nn.quantizable.")


def convert_sync_batchnorm(module: Module, process_group: Any = None, *, nonfinite: str = "propagate",
                           mapping: Optional[Mapping[type, type]] = None) -> Module:
    """Replace `module`'s layers of exactly the types BatchNorm1d, 2d, 3d and torch.nn.SyncBatchNorm.

    A new layer has the parameters, buffers, hooks, attributes and mode of the layer that it replaces. Its name is its path in
    `module`. In place of a BatchNorm1d, 2d or 3d is a `SyncBatchNorm1d`, `2d` or `3d`, which is an instance of that class. A
    layer that is used twice is replaced by one layer. Some layers are left as they are, and a warning lists them:
    subclasses (which parametrized layers are), layers inside fused and quantization-aware modules, and layers whose
    `forward` was replaced.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. If `module` is itself such a layer, it stays as it is and a new layer is returned.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks that share statistics. None: the default group, or the group of a torch.nn.SyncBatchNorm.
    nonfinite : "propagate", "skip_update" or "error"
        Treatment of a channel whose batch statistics are not finite, as in `SyncBatchNorm`.
    mapping : dict of class to class, optional
        More classes to replace: each key, exactly, by its value, a subclass of `SyncBatchNorm`. The new layer gets the
        attributes of the old one; no `__init__` is called.

    Returns
    -------
    torch.nn.Module
        `module`, or the layer in its place.

    Raises
    ------
    TypeError
        `mapping` has another form.
    syncbn.InvalidArgument
        (A ValueError.) A lazy layer has no parameters yet, or a batch norm is in a ScriptModule. Nothing is changed then.

    Examples
    --------
    >>> from torch import nn
    >>> from syncbn.torch import convert_sync_batchnorm
    >>> model = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    >>> type(model[1]), model[1].layer_name
    (<class 'syncbn.torch.SyncBatchNorm2d'>, '1')
    """
    classes = _classes(mapping)
    _check_convertible(module)

    def replacement(layer, path):
        group = process_group
        if group is None and type(layer) is nn.SyncBatchNorm:
            group = layer.process_group
        extra = ExtraOptions.create(group, nonfinite=nonfinite, name=path, converted_from=type(layer).__name__)
        return _recreated(layer, classes[type(layer)], extra)

    return _replaced(module, classes, replacement, "convert_sync_batchnorm", ours=False)


def revert_sync_batchnorm(module: Module, spatial_dims: Optional[int] = None, *,
                          mapping: Optional[Mapping[type, type]] = None) -> Module:
    """Replace the `SyncBatchNorm` layers of `module` by torch's batch norms.

    This is the inverse of `convert_sync_batchnorm`: a converted layer becomes a layer of its earlier class, with the
    present values. A warning lists the layers that it leaves as they are: subclasses, layers inside fused and
    quantization-aware modules, and layers whose `forward` was replaced.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. If `module` is itself such a layer, it stays as it is and a new layer is returned.
    spatial_dims : 1, 2 or 3, optional
        Makes BatchNorm1d, 2d or 3d of each plain `SyncBatchNorm` that was not converted from another layer.
    mapping : dict of class to class, optional
        The same as for `convert_sync_batchnorm`: each value is replaced by its key.

    Returns
    -------
    torch.nn.Module
        `module`, or the layer in its place.

    Raises
    ------
    TypeError
        `mapping` has another form.
    syncbn.InvalidArgument
        (A ValueError.) A layer needs `spatial_dims`, or has an `activation` or, in training, a `nonfinite` that torch's
        layers do not have. Nothing is changed then.
    """
    if spatial_dims not in (None, 1, 2, 3):
        raise InvalidArgument(f"spatial_dims: {spatial_dims!r}, expected 1, 2 or 3")
    classes = _classes(mapping)
    by_name = {cls.__name__: cls for cls in classes}
    classes = {ours: theirs for theirs, ours in classes.items()}
    for path, layer in module.named_modules():
        if type(layer) not in classes:
            continue
        if type(layer) is SyncBatchNorm and layer._extra.converted_from is None and spatial_dims is None:
            raise InvalidArgument(f"{path or 'module'}: this layer was not converted from another; spatial_dims must say "
                                  "whether it becomes BatchNorm1d, 2d or 3d")
        if layer.activation is not None:
            raise InvalidArgument(f"{path or 'module'}: activation={layer.activation!r}, which torch's batch norms do not "
                                  "have")
        if layer.nonfinite != "propagate" and layer.training:
            raise InvalidArgument(f"{path or 'module'}: nonfinite={layer.nonfinite!r}, which torch's batch norms do not "
                                  "have; if the model is for evaluation, call eval() first")

    def replacement(layer, path):
        cls = classes[type(layer)]
        if type(layer) is SyncBatchNorm:  # earlier versions put it in place of all classes
            cls = by_name[layer._extra.converted_from or f"BatchNorm{spatial_dims}d"]
        result = _recreated(layer, cls, None)
        if cls is nn.SyncBatchNorm:
            result.process_group = layer.process_group
        return result

    return _replaced(module, classes, replacement, "revert_sync_batchnorm", ours=True)


def name_layers(module: Module) -> Module:
    """Name each `SyncBatchNorm` of `module` that has no name by its path in `module`.

    Layers that `convert_sync_batchnorm` makes have such names already. For a model that is built of `SyncBatchNorm`, this
    function gives them. All ranks must call it alike.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.

    Returns
    -------
    torch.nn.Module
        `module`.

    Examples
    --------
    >>> from torch import nn
    >>> from syncbn.torch import SyncBatchNorm, name_layers
    >>> name_layers(nn.ModuleDict({"stem": SyncBatchNorm(4)}))["stem"].layer_name
    'stem'
    """
    for path, layer in module.named_modules():
        if path and isinstance(layer, SyncBatchNorm) and not layer._extra.given_name:
            layer._extra = layer._extra.named(path)
    return module


def _classes(mapping):
    """All classes to replace, with their replacements."""
    for theirs, ours in (mapping or {}).items():
        for cls, base in ((theirs, BatchNormBase), (ours, SyncBatchNorm)):
            if not (isinstance(cls, type) and issubclass(cls, base)):
                raise TypeError(f"mapping: {cls!r}, expected a subclass of {base.__name__}")
    return _REPLACEMENTS | dict(mapping or {})


def _check_convertible(module):
    names = {cls.__name__ for cls in _REPLACEMENTS}
    for path, layer in module.named_modules():
        if isinstance(layer, LazyNormBase) and layer.has_uninitialized_params():
            raise InvalidArgument(f"{path or 'module'}: {type(layer).__name__} has no parameters yet; convert it after its "
                                  "first forward")
        if isinstance(layer, torch.jit.ScriptModule) and getattr(layer, "original_name", "") in names:
            raise InvalidArgument(f"{path or 'module'}: a ScriptModule can't be changed; convert before torch.jit.script")


def _is_fused(module):
    return any(cls.__module__.startswith(_FUSED_PACKAGES) for cls in type(module).__mro__)


def _why_not(layer, fused, classes):
    if fused:
        return "part of a fused or quantization-aware module"
    if type(layer) not in classes:
        return "a subclass"
    if "forward" in vars(layer):
        return "its forward was replaced"
    return None


def _replaced(module, classes, replacement, caller, ours):
    """`module` with each layer of a class in `classes` replaced by `replacement(layer, path)`, called once for each.

    A warning lists the other SyncBatchNorm layers if `ours`, else all other batch norms.
    """
    visited, left = {}, []

    def visit(part, path, fused):
        if id(part) in visited:
            return visited[id(part)]
        visited[id(part)] = part
        if isinstance(part, BatchNormBase):
            if isinstance(part, SyncBatchNorm) is ours:
                why = _why_not(part, fused, classes)
                if why is None:
                    visited[id(part)] = replacement(part, path)
                else:
                    left.append(f"{path or 'module'} ({type(part).__name__}): {why}")
            return visited[id(part)]
        for name, child in part._modules.items():
            if child is not None:
                part._modules[name] = visit(child, f"{path}.{name}" if path else name, fused or _is_fused(part))
        return part

    result = visit(module, "", False)
    if left:
        warnings.warn(f"{caller} left these layers as they are: " + "; ".join(left), stacklevel=3)
    return result


def _recreated(layer, cls, extra):
    """A layer of another class with the attributes of `layer`, and with the ExtraOptions `extra` unless None.

    Both layers have the same parameters and buffers until one of the two gets others. They share the registries of hooks,
    from which handles remove their hooks.
    """
    result = cls.__new__(cls)
    state = {key: value for key, value in vars(layer).items() if key not in ("_extra", "process_group", "__module__")}
    vars(result).update(state, **{key: state[key].copy() for key in MODULE_MEMBERS})
    if extra is not None:
        vars(result)["_extra"] = extra
    return result
