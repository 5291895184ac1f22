"""The module."""

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _BatchNorm

from . import _core_calls, _operators
from .._framework_group import reason_of, tell_peers
from ._autograd import Call, Forward
from ._process_group import core_group, name_of, next_number, process_group_of

_ACTIVATIONS = (None, "relu")
_NONFINITE = ("propagate", "skip_update", "error")
_len_dispatch_stack = torch._C._len_torch_dispatch_stack
_in_torch_func = torch._C._functorch.peek_interpreter_stack
_is_compiling = torch.compiler.is_compiling
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # not in torch 2.4
_jit_tracer = torch._C._get_tracing_state


# A compiler that traces the call runs it at once: the error ends the program before any code that it could be part of.
@torch.compiler.assume_constant_result
def _tell_peers(group, name, reason):
    tell_peers(core_group, group, name, reason)


class Own(NamedTuple):
    """What torch's batch norms do not have. Copies and what pickle makes of a layer inherit it, the name too."""

    group: str  # of the process group, which can be neither copied nor pickled; "" for the default
    activation: Optional[str]
    nonfinite: str
    name: str
    name_tensor: Tensor  # the same for operators
    origin: Optional[str]  # the class that a conversion replaced

    @staticmethod
    def of(process_group=None, activation=None, nonfinite="propagate", name=None, origin=None):
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation: {activation!r}, expected one of {_ACTIVATIONS}")
        if nonfinite not in _NONFINITE:
            raise ValueError(f"nonfinite: {nonfinite!r}, expected one of {_NONFINITE}")
        if not isinstance(name, (str, type(None))):
            raise TypeError(f"name: {name!r}, expected a str or None")
        group = name_of(process_group)
        name = name or f"#{next_number(process_group)}"
        return Own(group, activation, nonfinite, name, _operators.name_tensor(name), origin)


class SyncBatchNorm(_BatchNorm):
    r"""Batch normalization with the statistics of the batch that all ranks of a group bring together.

    In place of `torch.nn.SyncBatchNorm`, for CPU tensors. With ``y = (x - mean) / sqrt(var + eps) * weight + bias`` per
    channel, `mean` and the biased `var` are those of the whole group's batch in training, uneven and empty shares
    included, and the running ones in evaluation. Statistics, ``y``, the gradient of ``x`` and running statistics have
    the same bits for every number of ranks, split of the batch and memory format. Gradients of `weight` and `bias` are
    a rank's own: DistributedDataParallel adds them up with all others.

    In training every rank of the group must call its layers in the same order, forward and backward.

    Parameters
    ----------
    num_features : int
        C of inputs (N, C, ...).
    eps, momentum, affine, track_running_stats, device, dtype
        As of `torch.nn.BatchNorm2d`; `momentum` in [0, 1], None for the cumulative average.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks that share statistics; None: the default group. Without `torch.distributed` this process alone.
    bias : bool
        False: a weight without a bias.
    activation : None or "relu"
        Applied to the result (to the sum with the residual).
    nonfinite : "propagate", "skip_update" or "error"
        What training does with channels whose statistics are not finite: the running statistics take them, the
        running statistics of those channels stay, or it is an error on every rank.
    name : str, optional
        Tells the layer from others in messages, equal on all ranks; default: its number in the order of construction.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: Optional[float] = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: Any = None, device: Any = None,
                 dtype: Optional[torch.dtype] = None, *, bias: bool = True, activation: Optional[str] = None,
                 nonfinite: str = "propagate", name: Optional[str] = None) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            self.register_parameter("bias", None)
        self._own = Own.of(process_group, activation, nonfinite, name)

    @property
    def process_group(self):
        return process_group_of(self._own.group)

    @process_group.setter
    def process_group(self, process_group):
        self._own = self._own._replace(group=name_of(process_group))

    @property
    def activation(self) -> Optional[str]:
        return self._own.activation

    @property
    def nonfinite(self) -> str:
        return self._own.nonfinite

    @property
    def layer_name(self) -> str:
        """What messages call it: the given name, or # and its number."""
        return self._own.name

    def reset_parameters(self):
        self.reset_running_stats()
        if self.affine:
            torch.nn.init.ones_(self.weight)
            if self.bias is not None:
                torch.nn.init.zeros_(self.bias)

    def extra_repr(self):
        own = {"activation": None, "nonfinite": "propagate"}
        shown = [f"{key}={getattr(self, key)}" for key, default in own.items() if getattr(self, key) != default]
        return ", ".join([super().extra_repr(), *shown])

    def _check_input_dim(self, input):
        shape = input.shape
        if len(shape) < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if shape[1] != self.num_features:
            if shape[1] == 0:
                raise ValueError("SyncBatchNorm number of input channels should be non-zero")
            raise ValueError(f"input: shape {tuple(shape)}, expected C = num_features = {self.num_features}")
        if input.dtype not in _core_calls.DTYPES:
            raise TypeError(f"input: {input.dtype}, expected float16, bfloat16, float32 or float64")
        if not (input.is_cpu or input.is_meta):
            raise ValueError(f"SyncBatchNorm expected input tensor to be on CPU (got {input.device}); for other "
                             "devices there is torch.nn.SyncBatchNorm")

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        """Normalize `input`, (N, C, ...), N may be 0.

        Parameters
        ----------
        input : Tensor
        residual : Tensor, optional
            Added to the result, before the activation; of the shape and dtype of `input`.

        Raises
        ------
        ValueError, TypeError, syncbn.MismatchError, syncbn.PeerError, syncbn.TimeoutError, syncbn.GroupError
            The layer's state is then unchanged.
        """
        by_operators = (_is_compiling() or type(input) is not Tensor or _len_dispatch_stack() or input.is_meta
                        or _jit_tracer() is not None)
        try:
            self._check_input_dim(input)
            if not by_operators:
                if _in_torch_func() is not None:
                    raise RuntimeError("SyncBatchNorm does not work under torch.func transforms (grad, vjp, vmap, ...): "
                                       "use torch.autograd")
                call = Call(self)
        except Exception as error:
            if self.training and not (input.is_meta or isinstance(input, FakeTensor) or _is_exporting()):
                _tell_peers(self._own.group, self._own.name, reason_of(error))
            raise
        if by_operators:
            return self._forward_by_operators(input, residual)
        if torch.is_grad_enabled():
            return Forward.apply(input, call.weight, call.bias, residual, call)
        return call(input, residual)[0]

    def _forward_by_operators(self, input, residual):
        settings = _operators.settings_of(self)
        name = self._own.name_tensor
        tracked = self.training and self.track_running_stats and self.running_mean is not None
        evaluated = not self.training
        y, saved = torch.ops.syncbn.forward(
            input, self.weight, self.bias, residual, self.running_mean if evaluated else None,
            self.running_var if evaluated else None, name, settings, self.training)
        if tracked:
            torch.ops.syncbn.track(self.running_mean, self.running_var, self.num_batches_tracked, saved, name, settings)
        return y
