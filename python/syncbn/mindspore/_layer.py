# SPDX-License-Identifier: Apache-2.0

"""SyncBatchNorm as a MindSpore Cell."""

import sys
from typing import Any, Optional

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .. import _checks, _core
from .._dtypes import CORE_DTYPES
from .._framework_group import error_text, fail_peers, given_name, name_call, single_rank_group
from .._layer_spec import LayerSpec
from . import _process_group
from ._autograd import DTYPES, Normalize
from ._private import CAST_BY_TO_FLOAT, jit_context, parameters_of
from ._recompute import moves_statistics

_DTYPE_NAMES = {getattr(mindspore, name): name for name in CORE_DTYPES}
_VALUES = "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
# False. MindSpore's compiler takes the comment `@jit.cond: True` at the branch for the condition instead.
_COMPILED = False
_PYNATIVE_ONLY = ("syncbn.mindspore.SyncBatchNorm runs in PyNative mode only: not in graph mode, under mindspore.jit, jvp "
                  "or vmap. In evaluation, with running statistics, graph mode, mindspore.jit and mindspore.export work: "
                  "call set_train(False), or revert_sync_batchnorm() for MindSpore's own layers")


def _names(dtypes):
    return ", ".join(map(repr, dtypes))


class SyncBatchNorm(nn.Cell):
    """Normalize batches with the statistics of all ranks of a MindSpore group.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` per channel. In training, mean and biased variance are those of
    all elements on all ranks of the group; the ranks' shares of the batch may be uneven or empty. The call updates the
    running statistics. Evaluation uses the running statistics and never communicates. A new layer evaluates, as every
    Cell does; call `set_train()` to train. `weight`, `bias`, `running_mean`, `running_var` and `num_batches_tracked` are
    Parameters, or None.

    Parameters
    ----------
    num_features : int
        Number of channels C of an input of shape (N, C, ...).
    eps : float
        Added to the biased variance before the square root; finite and not negative.
    momentum : float or None
        Weight of the new statistics in the running statistics, in [0, 1]. None: 1 / num_batches_tracked.
    affine : bool
        True: `weight` and `bias` exist.
    track_running_stats : bool
        True: running statistics exist. Without them, evaluation uses the statistics of this rank's batch.
    process_group : str or None
        The MindSpore group whose ranks share statistics. None: the world.
    dtype : mindspore.dtype or None
        Dtype of weight, bias, running_mean and running_var: float16, bfloat16, float32 or float64. None: float32. The
        input may have another of these dtypes; the output has the dtype of the input.
    name : str or None
        Identifies the layer in messages and among the layers of its group; it is the same on all ranks. None: the layer's
        path in the network, if it has one. Layers with the same name or with none are distinguished by the order of their
        construction and of their first calls in training.

    Attributes
    ----------
    process_group : str
        Name of the group; for the argument None, the world's name.
    world_size : int
        Number of ranks in the group.
    layer_name : str
        The given name, else the layer's path in the network; "" if it has none.

    Raises
    ------
    TypeError
        An argument has a wrong type.
    ValueError
        `num_features` < 1, `momentum` is outside [0, 1], or `eps` is negative or not finite.
    syncbn.GroupError
        `process_group` is unknown, or this rank is not a member.
    """

    weight: Optional[Parameter]
    bias: Optional[Parameter]
    running_mean: Optional[Parameter]
    running_var: Optional[Parameter]
    num_batches_tracked: Optional[Parameter]

    # A layer that convert_sync_batchnorm() made keeps the names of the parameters that it got, so that checkpoints fit,
    # and the class that it replaced.
    _parameter_names: dict = {}
    _converted_from = None

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: Optional[float] = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: Optional[str] = None, dtype: Any = None, *,
                 name: Optional[str] = None) -> None:
        super().__init__()
        self.num_features = _checks.integer("num_features", num_features)
        if not isinstance(eps, float):
            raise TypeError(f"eps: {eps!r}, expected a float")
        self.eps = eps
        self.momentum = None if momentum is None else _checks.real("momentum", momentum)
        self.affine = _checks.boolean("affine", affine)
        self.track_running_stats = _checks.boolean("track_running_stats", track_running_stats)
        self.dtype = mindspore.float32 if dtype is None else dtype
        if self.dtype not in DTYPES:
            raise TypeError(f"dtype: {dtype!r}, expected one of {_names(DTYPES)} or None")
        if not isinstance(process_group, (str, type(None))):
            raise TypeError(f"process_group: {process_group!r}, expected the name of a MindSpore group or None")
        self.process_group = _process_group.group_name_of(process_group)
        self.world_size = _process_group.size_of(self.process_group)
        self._given_name = "" if name is None else _checks.string("name", name)
        self._number = _core.next_layer_number()
        self._core_layer(self.dtype)  # checks the values of the arguments

        def parameter(exists, name, shape, dtype, requires_grad):
            if not exists:
                return None
            return Parameter(Tensor(np.zeros(shape), dtype), name=name, requires_grad=requires_grad)

        self.weight = parameter(affine, "weight", num_features, self.dtype, True)
        self.bias = parameter(affine, "bias", num_features, self.dtype, True)
        self.running_mean = parameter(track_running_stats, "running_mean", num_features, self.dtype, False)
        self.running_var = parameter(track_running_stats, "running_var", num_features, self.dtype, False)
        self.num_batches_tracked = parameter(track_running_stats, "num_batches_tracked", (), mindspore.int64, False)
        self.reset_parameters()

    def construct(self, input: Tensor) -> Tensor:
        """Normalize `input`.

        In training, every rank of the group calls its layers in the same order. A difference raises an error on every
        rank.

        Parameters
        ----------
        input : Tensor
            Shape (N, C, ...); N may be 0.

        Returns
        -------
        Tensor
            The output, with the shape and dtype of `input`.

        Raises
        ------
        TypeError
            `input` is not a Tensor of float16, bfloat16, float32 or float64.
        ValueError
            `input` has a wrong shape; or, in training, the whole group has one element per channel.
        syncbn.MismatchError, syncbn.PeerError, syncbn.TimeoutError, syncbn.GroupError
            See these classes. The layer is unchanged.
        """
        if _COMPILED:  # @jit.cond: True
            if self.training or self.running_mean is None:
                raise RuntimeError(_PYNATIVE_ONLY)
            return self._compiled_evaluation(input)
        # MindSpore is tracing, or runs a rewritten copy of this code: it would compile the addresses as constants.
        if jit_context() is not None or sys._getframe().f_code is not SyncBatchNorm.construct.__code__:
            raise RuntimeError(_PYNATIVE_ONLY)
        try:
            x = self._checked_input(input)
            values, dtype = self._checked_values()
            core_layer = self._core_layer(dtype)
        except Exception as error:
            name_call(error, _core.Direction.forward, self.layer_name)
            if self.training:
                fail_peers(_process_group.framework_group, self.process_group, self.layer_name, error_text(error))
            raise
        track = moves_statistics(self, self.training and self.track_running_stats)
        return Normalize.apply(core_layer, self._number, values, self.training, track, x, values[0], values[1])

    @property
    def layer_name(self) -> str:
        if self._given_name:
            return self._given_name
        for name, parameter in parameters_of(self).items():
            if parameter is not None and parameter.name.endswith("." + name):  # MindSpore puts the path in front
                return parameter.name[:-len(name) - 1]
        return ""

    def __setstate__(self, state):
        base, attributes = state
        attributes = attributes | {"_number": _core.next_layer_number()}  # a copy is another layer
        if "_name_in_group" in attributes:  # earlier versions
            attributes["_given_name"] = given_name(attributes.pop("_name_in_group"))
        super().__setstate__((base, attributes))

    def _compiled_evaluation(self, x):
        """MindSpore's own operator, as in mindspore.nn.BatchNorm2d, for graphs and exported files."""
        weight = self.weight if self.affine else ops.ones_like(self.running_mean)
        bias = self.bias if self.affine else ops.zeros_like(self.running_mean)
        plane = x if x.ndim == 4 else x.reshape(x.shape[0], x.shape[1], -1, 1)
        y = ops.BatchNorm(False, self.eps)(plane, weight, bias, self.running_mean, self.running_var)[0]
        return y if x.ndim == 4 else y.reshape(x.shape)

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0, and reset the running statistics."""
        self._fill(weight=1, bias=0)
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Set running_mean to 0, running_var to 1 and num_batches_tracked to 0."""
        self._fill(running_mean=0, running_var=1, num_batches_tracked=0)

    def extend_repr(self):
        return (f"num_features={self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}" + (f", name={self._given_name!r}" if self._given_name else ""))

    def __repr__(self):
        return f"{type(self).__name__}(\n  {self.extend_repr()}\n)"

    def __getattr__(self, name):
        return super().__getattr__(self._parameter_names.get(name, name))

    def __setattr__(self, name, value):
        super().__setattr__(self._parameter_names.get(name, name), value)

    def _fill(self, **values):
        for name, value in values.items():
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, Tensor(np.full(tensor.shape, value), tensor.dtype))

    def _core_layer(self, dtype):
        group = _process_group.framework_group(self.process_group) if self.training else single_rank_group()
        return group.layer(LayerSpec(
            num_features=self.num_features, affine=self.affine, bias=self.affine,
            track_running_stats=self.track_running_stats, dtype=_DTYPE_NAMES.get(dtype, dtype), name=self.layer_name,
            eps=self.eps, momentum=self.momentum))

    def _checked_input(self, x):
        if not isinstance(x, Tensor):
            raise TypeError(f"input: {type(x).__name__}, expected a Tensor")
        if self.mixed_precision_type in CAST_BY_TO_FLOAT:
            x = x.to(CAST_BY_TO_FLOAT[self.mixed_precision_type])
        if x.dtype not in DTYPES:
            raise TypeError(f"input: dtype {x.dtype!r}, expected one of {_names(DTYPES)}")
        if x.ndim < 2:
            raise ValueError(f"input: shape {x.shape}, expected at least two dimensions, (N, C, ...)")
        x = x.contiguous()
        x.data_ptr()  # waits; else MindSpore might raise another operator's error between here and the sum
        return x

    def _checked_values(self):
        """weight, bias, running_mean, running_var and num_batches_tracked, or None, and the dtype of the first four."""
        tensors = vars(self) | parameters_of(self)  # a converted layer's counter may be no Parameter
        values = tuple(tensors.get(self._parameter_names.get(name, name)) for name in _VALUES)
        dtype = next((value.dtype for value in values if value is not None), mindspore.float32)
        for name, value in zip(_VALUES, values):
            if value is None:
                continue
            expected = ((), mindspore.int64) if name == "num_batches_tracked" else ((self.num_features,), dtype)
            if (value.shape, value.dtype) != expected:
                raise ValueError(f"{name}: shape {value.shape} and dtype {value.dtype!r}, expected {expected[0]} "
                                 f"and {expected[1]!r}")
            if not value.is_contiguous():
                value.set_data(value.contiguous())
        return values, dtype
