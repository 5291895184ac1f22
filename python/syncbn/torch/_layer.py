# SPDX-License-Identifier: Apache-2.0

"""SyncBatchNorm as a PyTorch module."""

import math
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from . import _operators
from .. import _checks, _core
from .._dtypes import DTYPE_NAMES
from .._errors import InvalidArgument
from .._framework_group import error_text, fail_peers, name_call
from ._autograd import Forward, LayerSnapshot
from ._core_calls import check_residual, error_if_not_dense
from ._evaluation import evaluate, is_saved, transformed, transformed_in_trace
from ._extra_options import ExtraOptions
from ._private import FX_LEAF_MODULE, BatchNormBase, FakeTensor, dispatch_mode_count, is_exporting, jit_tracing_state
from ._process_group import framework_group, name_of, process_group_named
from ._spec import DTYPES, new_traced, parameter_dtype, spec_of

_is_compiling = torch.compiler.is_compiling

Own = ExtraOptions  # its name in pickles of earlier versions


# A compiler runs this function at once, while it traces the call: the error ends the program before its compiled code
# would run.
@torch.compiler.assume_constant_result
def _fail_peers_in_trace(process_group_name, layer_name, reason):
    fail_peers(framework_group, process_group_name, layer_name, reason)


def _check_class(input):
    if isinstance(input, Proxy):
        raise TypeError("input: torch.fx can't trace into SyncBatchNorm: Tracer.is_leaf_module must return True for it")
    if not isinstance(input, Tensor):
        raise TypeError(f"input: {type(input).__name__}, expected a torch.Tensor")
    if hasattr(input, "to_local"):
        raise TypeError(f"input: {type(input).__name__}, expected a plain tensor: pass this rank's part, input.to_local(); "
                        "the layer itself sums over its process_group")


def _has_values(input):
    """False for an input without values, by which a tool finds shapes: no peer waits for such a call."""
    return not (isinstance(input, (FakeTensor, Proxy)) or getattr(input, "is_meta", False) or is_exporting())


class SyncBatchNorm(BatchNormBase):
    r"""Normalize batches with the statistics of all ranks of a process group.

    The layer replaces `torch.nn.SyncBatchNorm` for CPU tensors. It computes ``y = (x - mean) / sqrt(var + eps) * weight +
    bias`` per channel. In training, `mean` and the biased `var` are those of the whole group's batch; the ranks' shares
    may be uneven or empty. In evaluation they are the running statistics. Statistics, ``y``, the gradient of ``x`` and
    running statistics have the same bits for every number of ranks, split of the batch and memory format. The gradients
    of `weight` and `bias` are sums over this rank's share: DistributedDataParallel adds them over the ranks.

    In training, every rank of the group must call its layers in the same order, forward and backward.

    Parameters
    ----------
    num_features : int
        Number of channels C of inputs (N, C, ...).
    eps, momentum, affine, track_running_stats, device, dtype
        The same as for `torch.nn.BatchNorm2d`. `momentum` is in [0, 1], or None for a cumulative average.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks that share statistics. None: the default group, or without `torch.distributed` this process alone.
    bias : bool
        False: a weight without a bias.
    activation : None or "relu"
        Applied to the output, after a residual is added.
    nonfinite : "propagate", "skip_update" or "error"
        Treatment of a channel whose batch statistics are not finite. "propagate": the running statistics take them.
        "skip_update": the channel's running statistics stay unchanged. "error": the call is an error on every rank.
    name : str, optional
        Identifies the layer in messages and among the layers of its group; it is the same on all ranks. Layers with the
        same name or with none are distinguished by the order of their construction and of their first calls in training.

    Examples
    --------
    >>> import torch
    >>> from syncbn.torch import SyncBatchNorm
    >>> bn = SyncBatchNorm(2, activation="relu")
    >>> y = bn(torch.linspace(0, 5, 16).reshape(2, 2, 2, 2))
    >>> bn.running_mean
    tensor([0.1833, 0.3167])
    """

    def __new__(cls, *arguments, **options):
        # Here, so that copies, loaded pickles and converted layers have it, too.
        layer = super().__new__(cls)
        vars(layer)["__module__"] = FX_LEAF_MODULE
        return layer

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: Optional[float] = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: Any = None, device: Any = None,
                 dtype: Optional[torch.dtype] = None, *, bias: bool = True, activation: Optional[str] = None,
                 nonfinite: str = "propagate", name: Optional[str] = None) -> None:
        num_features, eps = _checks.integer("num_features", num_features), _checks.real("eps", eps)
        if num_features < 1:
            raise InvalidArgument(f"num_features: {num_features}, expected an int >= 1")
        if not 0 <= eps < math.inf:
            raise InvalidArgument(f"eps: {eps}, expected a finite number >= 0")
        if momentum is not None:
            factor = _checks.real("momentum", momentum)
            if not 0 <= factor <= 1:
                raise InvalidArgument(f"momentum: {factor}, expected None or a number in [0, 1]")
            momentum = factor
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            self.register_parameter("bias", None)
        self._extra = ExtraOptions.create(process_group, activation, nonfinite, name)

    @property
    def process_group(self):
        """The process group whose ranks share statistics; None: the default group."""
        return process_group_named(self._extra.process_group_name)

    @process_group.setter
    def process_group(self, process_group):
        self._extra = self._extra._replace(process_group_name=name_of(process_group))

    @property
    def activation(self) -> Optional[str]:
        """The function that is applied to the output: None or "relu"."""
        return self._extra.activation

    @property
    def nonfinite(self) -> str:
        """Treatment of a channel whose batch statistics are not finite."""
        return self._extra.nonfinite

    @property
    def layer_name(self) -> str:
        """The layer's name in messages; "" if it has none."""
        return self._extra.name

    def reset_parameters(self):
        """Set weight to 1 and bias to 0, and reset the running statistics."""
        self.reset_running_stats()
        if self.affine:
            torch.nn.init.ones_(self.weight)
            if self.bias is not None:
                torch.nn.init.zeros_(self.bias)

    def extra_repr(self):
        defaults = {"activation": None, "nonfinite": "propagate"}
        changed = [f"{key}={getattr(self, key)}" for key, default in defaults.items() if getattr(self, key) != default]
        if self._extra.name:
            changed.append(f"name={self._extra.name}")
        return ", ".join([super().extra_repr(), *changed])

    # Pickles hold plain values instead of the private class ExtraOptions. Those of earlier versions hold it as _own.

    def __getstate__(self):
        state = vars(self).copy()
        del state["__module__"]
        state["_extra"] = self._extra.to_dict()
        return state

    def __setstate__(self, state):
        state = dict(state)
        own = state.pop("_own", None)
        # A copy is another layer.
        super().__setstate__(state | {"_extra": ExtraOptions.from_dict(own.to_dict() if own else state["_extra"])})

    def __prepare_scriptable__(self):  # torch.jit.script calls it
        raise RuntimeError("torch.jit.script can't compile SyncBatchNorm: use torch.jit.trace in evaluation, or script what "
                           "syncbn.torch.revert_sync_batchnorm makes of the model")

    def _check_input_dim(self, input):
        if type(input) is not Tensor:
            _check_class(input)
        shape = input.shape
        if len(shape) < 2:
            raise InvalidArgument(f"expected at least 2D input (got {input.dim()}D input)")
        if shape[1] != self.num_features:
            if shape[1] == 0:
                raise InvalidArgument("SyncBatchNorm number of input channels should be non-zero")
            raise InvalidArgument(f"input: shape {tuple(shape)}, expected C = num_features = {self.num_features}")
        if input.dtype not in DTYPES:
            raise TypeError(f"input: {input.dtype}, expected {DTYPE_NAMES}")
        if not (input.is_cpu or input.is_meta):
            raise InvalidArgument(f"SyncBatchNorm expected input tensor to be on CPU (got {input.device}); use "
                                  "torch.nn.SyncBatchNorm for other devices")

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        """Normalize `input`.

        Parameters
        ----------
        input : Tensor
            Shape (N, C, ...); N may be 0.
        residual : Tensor, optional
            Added before the activation; it has the shape and dtype of `input`.

        Returns
        -------
        Tensor
            The output, with the shape, dtype and memory format of `input`.

        Raises
        ------
        TypeError, ValueError
            An argument has a wrong dtype, shape or device; or, in training, the whole group has one element per channel.
        syncbn.MismatchError, syncbn.PeerError, syncbn.TimeoutError, syncbn.GroupError
            See these classes. The layer is unchanged.
        """
        compiling = _is_compiling()
        by_operators = (compiling or type(input) is not Tensor or dispatch_mode_count() or input.is_meta
                        or jit_tracing_state() is not None)
        try:
            self._check_input_dim(input)
            is_transformed = transformed_in_trace() if compiling else transformed()
            if self.training:
                if is_transformed:
                    raise RuntimeError("SyncBatchNorm in training does not work under torch.func (grad, vjp, jvp, vmap, "
                                       "...) and forward-mode AD: use torch.autograd, or evaluation")
            elif is_transformed or is_saved(compiling):
                if residual is not None:
                    check_residual(residual, input)
                return evaluate(self, input, residual)
            if not by_operators:
                snapshot = LayerSnapshot(self)
        except Exception as error:
            if not compiling:
                raise self._failed(input, error)
            if self.training and _has_values(input):
                _fail_peers_in_trace(self._extra.process_group_name, self._extra.name, error_text(error))
            raise
        if compiling:
            return self._forward_by_operators(input, residual)
        if by_operators:
            try:
                return self._forward_by_operators(input, residual)
            except Exception as error:
                raise self._failed(input, error)
        if torch.is_grad_enabled():
            return Forward.apply(input, snapshot.weight, snapshot.bias, residual, snapshot)
        return snapshot.call(input, residual)[0]

    @torch.compiler.disable  # torch 2.4 tries, where it could not compile the caller
    def _failed(self, input, error):
        """The error to raise for a call that failed. It names the call, and the peers get it, too."""
        if _core.describe_call(_core.Direction.forward, self._extra.name) in str(error):
            return error  # of the core or the steps before it, which have told the peers
        if isinstance(input, Tensor) and input.is_nested:  # torch can't say the shape of some
            error = error_if_not_dense(input)
        elif "__torch_dispatch__" in str(error):
            error = TypeError(f"input: {type(input).__name__}, a class that does not support syncbn's operators: pass a plain "
                              "tensor")
        name_call(error, _core.Direction.forward, self._extra.name)
        if self.training and _has_values(input):
            fail_peers(framework_group, self._extra.process_group_name, self._extra.name, error_text(error))
        return error

    def _forward_by_operators(self, input, residual):
        weight, bias, mean, var, training = self.weight, self.bias, self.running_mean, self.running_var, self.training
        if training and not self.track_running_stats:
            mean = var = None
        spec = spec_of(self, weight, bias, mean, parameter_dtype(weight, mean), new=new_traced)
        settings = _operators.encoded_settings(spec, self._extra.process_group_name)
        traced = is_exporting() if _is_compiling() else jit_tracing_state() is not None
        name = self._extra.traced_name_tensor if traced else self._extra.name_tensor
        y, saved = torch.ops.syncbn.forward(input, weight, bias, residual, None if training else mean,
                                            None if training else var, name, settings, training)
        if training and mean is not None:
            torch.ops.syncbn.track(mean, var, self.num_batches_tracked, saved, name, settings)
        return y


class SyncBatchNorm1d(SyncBatchNorm, nn.BatchNorm1d):
    """A `SyncBatchNorm` that is a `torch.nn.BatchNorm1d` for code that asks. It takes inputs of all dimensions, too."""


class SyncBatchNorm2d(SyncBatchNorm, nn.BatchNorm2d):
    """A `SyncBatchNorm` that is a `torch.nn.BatchNorm2d` for code that asks. It takes inputs of all dimensions, too."""


class SyncBatchNorm3d(SyncBatchNorm, nn.BatchNorm3d):
    """A `SyncBatchNorm` that is a `torch.nn.BatchNorm3d` for code that asks. It takes inputs of all dimensions, too."""
