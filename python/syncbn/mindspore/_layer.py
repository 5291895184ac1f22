"""SyncBatchNorm as a MindSpore Cell."""

import sys
from typing import Any, Optional

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore._c_expression import MixedPrecisionType
from mindspore.graph.jit_context import jit_context

from .. import _checks
from .._framework_group import alone, reason_of, tell_peers
from . import _process_group
from ._autograd import DTYPES, Normalize

_CAST_BY_TO_FLOAT = {
    MixedPrecisionType.FP16: mindspore.float16,
    MixedPrecisionType.BF16: mindspore.bfloat16,
    MixedPrecisionType.FP32: mindspore.float32,
}
_VALUES = "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
# For MindSpore's compiler, which takes the comment at the branch for the condition.
_COMPILED = False
_PYNATIVE_ONLY = ("syncbn.mindspore.SyncBatchNorm runs in PyNative mode only: not in graph mode, under mindspore.jit, "
                  "jvp or vmap")


def _names(dtypes):
    return ", ".join(map(repr, dtypes))


class SyncBatchNorm(nn.Cell):
    """Batch normalization with the statistics of the whole group's batch.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, per channel. In training mean and biased variance are those of
    all elements that the ranks of the group bring, uneven and empty shares included; the running statistics move. In
    evaluation the running statistics serve, nothing is sent. As every Cell a new layer evaluates; call `set_train()`.

    Parameters
    ----------
    num_features : int
        C of an input of shape (N, C, ...).
    eps : float
        Added to the biased variance, under the root; finite, not negative.
    momentum : float or None
        Weight of the new statistics in the running ones, in [0, 1]; None: 1 / num_batches_tracked.
    affine : bool
        Whether `weight` and `bias` exist.
    track_running_stats : bool
        Whether running statistics exist; without them evaluation uses the batch, this rank's alone.
    process_group : str or None
        The MindSpore group whose ranks share statistics; None: the world.
    dtype : mindspore.dtype or None
        Of weight, bias, running_mean and running_var: float16, bfloat16, float32 (None) or float64. The input's may
        differ; the output has the input's.

    Attributes
    ----------
    weight, bias, running_mean, running_var, num_batches_tracked : mindspore.Parameter or None
    process_group : str
        None has become the world's name.
    world_size : int
        Ranks in the group.

    Raises
    ------
    TypeError : an argument of another type
    ValueError : num_features < 1, momentum outside [0, 1], eps negative or not finite
    syncbn.GroupError : process_group is unknown, or this rank no member
    """

    weight: Optional[Parameter]
    bias: Optional[Parameter]
    running_mean: Optional[Parameter]
    running_var: Optional[Parameter]
    num_batches_tracked: Optional[Parameter]

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: Optional[float] = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: Optional[str] = None, dtype: Any = None) -> None:
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
        self.process_group = _process_group.resolved(process_group)
        self.world_size = _process_group.size_of(self.process_group)
        self._name_in_group = f"#{_process_group.next_number(self.process_group)}"  # copies inherit it
        self._core(self.dtype)  # checks the values

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
        """Normalize `input` of shape (N, C, ...), N may be 0; the output has its shape and dtype.

        In training every rank of the group calls, in the same order; a difference is an error on every rank.

        Raises
        ------
        TypeError : no Tensor, or of a dtype that is no floating one
        ValueError, syncbn.MismatchError, syncbn.PeerError, syncbn.TimeoutError, syncbn.GroupError :
            state is then unchanged
        """
        if _COMPILED:  # @jit.cond: True
            raise RuntimeError(_PYNATIVE_ONLY)
        # While it traces, and where it runs a rewritten copy, it would take this call's numbers for constants.
        if jit_context() is not None or sys._getframe().f_code is not SyncBatchNorm.construct.__code__:
            raise RuntimeError(_PYNATIVE_ONLY)
        try:
            x = self._checked_input(input)
            values, dtype = self._checked_values()
            core = self._core(dtype)
        except Exception as error:
            if self.training:
                tell_peers(_process_group.core_group, self.process_group, self._name_in_group, reason_of(error))
            raise
        return Normalize.apply(core, values, self.training, x, values[0], values[1])

    def reset_parameters(self) -> None:
        """weight 1, bias 0, and `reset_running_stats()`."""
        self._fill(weight=1, bias=0)
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """running_mean 0, running_var 1, num_batches_tracked 0."""
        self._fill(running_mean=0, running_var=1, num_batches_tracked=0)

    def extend_repr(self):
        return (f"num_features={self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}")

    def __repr__(self):
        return f"{type(self).__name__}(\n  {self.extend_repr()}\n)"

    def _fill(self, **values):
        for name, value in values.items():
            parameter = getattr(self, name)
            if parameter is not None:
                parameter.set_data(Tensor(np.full(parameter.shape, value), parameter.dtype))

    def _core(self, dtype):
        group = _process_group.core_group(self.process_group) if self.training else alone()
        return group.layer(self.eps, self.momentum, self.num_features, self.affine, self.affine,
                           self.track_running_stats, dtype, "none", "propagate", self._name_in_group)

    def _checked_input(self, x):
        if not isinstance(x, Tensor):
            raise TypeError(f"input: {type(x).__name__}, expected a Tensor")
        if self.mixed_precision_type in _CAST_BY_TO_FLOAT:
            x = x.to(_CAST_BY_TO_FLOAT[self.mixed_precision_type])
        if x.dtype not in DTYPES:
            raise TypeError(f"input: dtype {x.dtype!r}, expected one of {_names(DTYPES)}")
        if x.ndim < 2:
            raise ValueError(f"input: shape {x.shape}, expected at least two dimensions, (N, C, ...)")
        x = x.contiguous()
        x.data_ptr()  # waits: between here and the sum MindSpore would raise another operator's error
        return x

    def _checked_values(self):
        """The tensors of weight, bias, running_mean, running_var, num_batches_tracked, or None; their dtype."""
        values = tuple(map(self._params.get, _VALUES))
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
