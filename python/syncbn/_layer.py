# SPDX-License-Identifier: Apache-2.0

"""SyncBatchNorm on NumPy arrays."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _checks, _core
from ._dtypes import CORE_DTYPES, DTYPE_NAMES
from ._errors import InvalidArgument
from ._framework_group import given_name, name_call
from ._layer_spec import LayerSpec
from ._process_group import resolve

_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_GRADIENTS = ("weight_grad", "bias_grad")
_VIEWS = frozenset(_STATE + _GRADIENTS)
_SET_BY_MAKE_CORE = {"_group", "_core", "_context", *_VIEWS}
_FIXED = frozenset(("num_features", "eps", "momentum", "affine", "track_running_stats", "process_group", "dtype",
                    "channels_last", "activation", "affine_gradients", "nonfinite"))


class SyncBatchNorm:
    """Normalize batches with the statistics of a whole group of ranks, on NumPy arrays.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` per channel. In training, mean and biased variance are those of
    all elements on all ranks of the group. The ranks' shares of the batch may be uneven or empty. Results have the same
    bits for every number of ranks, every split of the batch, every number of threads and both memory orders.

    The attributes `weight`, `bias`, `running_mean` and `running_var`, of shape (C,), and `num_batches_tracked`, an int64 of
    shape (), are live views of the layer's memory: the layer uses what is written to them, and an assignment to the attribute
    writes to the view. `weight_grad` and `bias_grad` are live views of the gradients; every `backward` overwrites them. What
    the options leave out is None. The arguments are attributes, too. They are fixed.

    Parameters
    ----------
    num_features : int
        Number of channels C of an input of shape (N, C, ...).
    eps : float
        Added to the variance before the square root; finite and not negative.
    momentum : float or None
        Weight of the new statistics in the running statistics, in [0, 1]. None: a cumulative average.
    affine : bool
        True: `weight` and `bias` exist.
    track_running_stats : bool
        True: running statistics exist. Without them, evaluation uses the statistics of this rank's batch.
    process_group : str, list of int, or engine, optional
        The ranks that share statistics. None: the world. A str: a group of `create_group`. A list: world ranks in
        [0, world size). An engine: a communicator of mpi4py, or any object with int attributes `rank` and `size` and a
        method ``all_reduce_sum(array, timeout)``, which sums a C-contiguous int64 array in place over the ranks within
        `timeout` seconds.
    dtype : NumPy dtype, optional
        Dtype of parameters and buffers: float16, bfloat16 (of ml_dtypes), float32 or float64. None: float32. The input
        may have another of these dtypes.
    channels_last : bool
        True: the axes of input and output are (N, ..., C).
    activation : {None, "relu"}
        Applied to the output, after a residual is added.
    affine_gradients : {"local", "group"}
        "local": the gradients of weight and bias are sums over this rank's share, and a data-parallel program adds them
        over the ranks. "group": they are sums over the whole group.
    nonfinite : {"propagate", "skip_update", "error"}
        Treatment of a channel whose batch statistics are not finite. "propagate": the running statistics take them.
        "skip_update": the channel's running statistics stay unchanged. "error": the call is an error on every rank.
    name : str
        Identifies the layer in messages and among the layers of its group. Layers with the same name or with none are
        distinguished by the order of their construction and of their first calls in training.

    Attributes
    ----------
    training : bool
        True in training mode.

    Raises
    ------
    TypeError
        An argument has a wrong type: `num_features` is not an int, `eps` is not a float, ...
    InvalidArgument
        (A ValueError.) `num_features` < 1, `momentum` is outside [0, 1], a rank of `process_group` is outside
        [0, world size), ...
    GroupError
        (A RuntimeError.) `process_group` is unknown, or this rank is not in it.

    Notes
    -----
    A new layer is in training mode. Calls in training are collective: every rank of the group makes the same calls in
    the same order. A difference raises a MismatchError on every rank. Evaluation never communicates. A failed call
    changes nothing in the layer. A layer may be used by one thread at a time.

    Examples
    --------
    >>> import numpy as np, syncbn
    >>> bn = syncbn.SyncBatchNorm(2)
    >>> y = bn(np.linspace(0, 5, 16, dtype=np.float32).reshape(2, 2, 2, 2))
    >>> bn.running_mean
    array([0.18333334, 0.31666666], dtype=float32)
    """

    weight: np.ndarray | None
    bias: np.ndarray | None
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    num_batches_tracked: np.ndarray | None
    weight_grad: np.ndarray | None
    bias_grad: np.ndarray | None

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: str | list[int] | Any | None = None,
                 dtype: Any = None, *, channels_last: bool = False, activation: str | None = None,
                 affine_gradients: str = "local", nonfinite: str = "propagate", name: str = "") -> None:
        self.num_features = _checks.integer("num_features", num_features)
        if not isinstance(eps, (float, np.floating)):
            raise TypeError(f"eps: {eps!r}, expected a float")
        self.eps = float(eps)
        self.momentum = None if momentum is None else _checks.real("momentum", momentum)
        self.affine = _checks.boolean("affine", affine)
        self.track_running_stats = _checks.boolean("track_running_stats", track_running_stats)
        self.process_group = process_group
        self.dtype = _dtype(dtype)
        self.channels_last = _checks.boolean("channels_last", channels_last)
        self.activation = None if activation is None else _checks.choice("activation", activation, ("relu",))
        self.affine_gradients = _checks.choice("affine_gradients", affine_gradients, ("local", "group"))
        self.nonfinite = _checks.choice("nonfinite", nonfinite, ("propagate", "skip_update", "error"))
        self._make_core(_checks.string("name", name))

    def _make_core(self, name):
        """Create the core layer for the layer's arguments, and the views of its memory."""
        self._group = resolve(self.process_group)  # keeps an engine's group alive
        self._core = LayerSpec(
            num_features=self.num_features, eps=self.eps, momentum=self.momentum, affine=self.affine,
            track_running_stats=self.track_running_stats, dtype=self.dtype.name, activation=self.activation or "none",
            affine_gradients=self.affine_gradients, nonfinite=self.nonfinite, name=name).core_layer(self._group)
        self._context = _core.ForwardContext()
        memory = self._core.memory()
        for entry in _STATE + _GRADIENTS:
            view = memory.get(entry)
            if view is not None:
                counter = entry == "num_batches_tracked"
                view = view.view(np.int64).reshape(()) if counter else view.view(self.dtype)
            vars(self)[entry] = view

    def __setattr__(self, name, value):
        # The core layer has copies of these arguments, which an assignment would not reach.
        if name in _FIXED and "_core" in vars(self):
            raise AttributeError(f"{name}: fixed when the layer is made, to {getattr(self, name)!r}; make another layer")
        if name in _VIEWS:
            view = getattr(self, name)
            if value is view:  # `bn.weight *= 2` assigns the view to itself
                return
            if view is None:
                raise AttributeError(f"{name}: this layer has none, by affine = {self.affine}, track_running_stats = "
                                     f"{self.track_running_stats}")
            view[...] = _converted(name, np.asarray(value), view)
            return
        super().__setattr__(name, value)

    @property
    def name(self) -> str:
        """The given name; "" if there is none."""
        return self._core.name

    @property
    def training(self) -> bool:
        """True in training mode."""
        return self._core.training

    def set_train(self, mode: bool = True) -> "SyncBatchNorm":
        """Switch to training or evaluation.

        Parameters
        ----------
        mode : bool
            True: training. False: evaluation.

        Returns
        -------
        SyncBatchNorm
            This layer.
        """
        self._core.training = _checks.boolean("mode", mode)
        return self

    train = set_train

    def eval(self) -> "SyncBatchNorm":
        """Switch to evaluation. Returns this layer."""
        return self.set_train(False)

    def __call__(self, x: Any, residual: Any = None) -> np.ndarray:
        """Normalize `x`, in training with the statistics of the group's batch, in evaluation with the running ones.

        Parameters
        ----------
        x : numpy.ndarray, or any array on the CPU with ``__dlpack__``
            Shape (N, C, ...), or (N, ..., C) with `channels_last`; N may be 0. A dense array of either memory order is
            used without a copy, other arrays are copied. The array must not change before `backward`.
        residual : array like `x`, optional
            Added before the activation.

        Returns
        -------
        numpy.ndarray
            The output, with the shape, dtype and memory order of `x`.

        Raises
        ------
        TypeError, InvalidArgument
            `x` or `residual` is not such an array; or, in training, the whole group has one element per channel.
        MismatchError, PeerError, TimeoutError, GroupError
            See these classes. The layer is unchanged.
        """
        if type(x) is not np.ndarray:
            x = self._array("x", x)
        if residual is not None and type(residual) is not np.ndarray:
            residual = self._array("residual", residual)
        context = _core.ForwardContext()
        y = self._core.forward(context, x, residual, self.channels_last)
        vars(self)["_context"] = context
        return y

    forward = __call__

    def backward(self, dy: Any) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return the gradient of the last call's input, and set `weight_grad` and `bias_grad`.

        After a call in training, every rank of the group must call `backward`, too.

        Parameters
        ----------
        dy : array like the output
            Gradient of the output.

        Returns
        -------
        numpy.ndarray, or a pair of them
            The gradient dx of the input. If the call had a residual: (dx, the gradient of the residual).

        Raises
        ------
        TypeError, InvalidArgument
            `dy` is not such an array, or the layer has not been called.
        MismatchError, PeerError, TimeoutError, GroupError
            See these classes. The layer is unchanged.
        """
        if type(dy) is not np.ndarray:
            dy = self._array("dy", dy, self._context)
        return self._core.backward(self._context, dy, self.channels_last)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the layer's parameters and buffers by name."""
        return {name: view.copy() for name, view in self._views().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set parameters and buffers to the values of a dict of `state_dict`.

        Parameters
        ----------
        state : dict of str to array
            Exactly the names of the layer's values. Real numbers of any type are rounded to the layer's dtype.

        Raises
        ------
        TypeError
            `state` is not a dict, or a value is not an array of real numbers.
        InvalidArgument
            (A ValueError.) Names or shapes differ from the layer's, a finite value overflows in the layer's dtype, or
            the counter is negative or not a whole number. Nothing is changed then.
        """
        views = self._views()
        if not isinstance(state, Mapping):
            raise TypeError(f"state: {type(state).__name__}, expected a dict")
        if set(state) != set(views):
            raise InvalidArgument(f"state: has {', '.join(sorted(map(str, state))) or 'nothing'}, expected "
                                  f"{', '.join(views) or 'nothing'}")
        values = {name: _converted(name, np.asarray(state[name]), view) for name, view in views.items()}
        for name, view in views.items():
            view[...] = values[name]

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0, and reset the running statistics."""
        self._core.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set running_mean to 0, running_var to 1 and num_batches_tracked to 0."""
        self._core.reset_running_stats()

    def __repr__(self) -> str:
        defaults = {"channels_last": False, "activation": None, "affine_gradients": "local", "nonfinite": "propagate",
                    "name": ""}
        changed = "".join(f", {name}={getattr(self, name)!r}" for name, default in defaults.items()
                          if getattr(self, name) != default)
        return (f"SyncBatchNorm(\n  num_features={self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, track_running_stats={self.track_running_stats}{changed}\n)")

    # Copies by `copy` and `pickle`. A copy shares no values with the layer but has its name: to the group they are two
    # layers of one name. Attributes of a subclass are copied. __init__ is not called, since a subclass may change its arguments.

    def __getstate__(self):
        attributes = {name: value for name, value in vars(self).items() if name not in _SET_BY_MAKE_CORE}
        values = {name: view.copy() for name, view in self._views().items()}
        return {"attributes": attributes, "name": self.name, "training": self.training, "values": values}

    def __setstate__(self, state):
        vars(self).update(state["attributes"])
        self._make_core(given_name(state["name"]))
        self._core.training = state["training"]
        for name, view in self._views().items():
            view[...] = state["values"][name]

    def __deepcopy__(self, memo):
        memo[id(self.process_group)] = self.process_group  # shared, not copied: an engine has connections
        result = memo[id(self)] = type(self).__new__(type(self))
        result.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return result

    def _views(self):
        """The existing parameters and buffers by name."""
        return {name: getattr(self, name) for name in _STATE if getattr(self, name) is not None}

    def _array(self, name, value, context=None):
        """`value` as a NumPy array without a copy. If that fails, the peers get an error instead of waiting.

        `context`: for a backward, the context of its forward.
        """
        try:
            if isinstance(value, np.ma.MaskedArray):
                raise TypeError(f"{name}: a masked array, expected one without a mask, which the statistics would ignore")
            if isinstance(value, np.ndarray):
                return value.view(np.ndarray)
            if not hasattr(value, "__dlpack__"):
                raise TypeError(f"{name}: {type(value).__name__}, expected a NumPy array or one with __dlpack__")
            return np.from_dlpack(value)
        except Exception as error:
            direction = _core.Direction.forward if context is None else _core.Direction.backward
            name_call(error, direction, self.name)
            self._core.fail(str(error), context)
            raise


def _dtype(given):
    try:
        dtype = np.dtype(np.float32 if given is None else given)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in CORE_DTYPES or not dtype.isnative:
        raise TypeError(f"dtype: {given!r}, expected {DTYPE_NAMES}")
    return dtype


def _converted(name, given, view):
    """`given` in the dtype of `view`. An error if the conversion loses more than a rounding."""
    if not np.can_cast(given.dtype, np.float64, "same_kind"):
        raise TypeError(f"{name}: {given.dtype}, expected real numbers")
    if given.shape != view.shape:
        raise InvalidArgument(f"{name}: shape {given.shape}, expected {view.shape}")
    if name == "num_batches_tracked":
        count = given.item()
        if not 0 <= count < 2**63 or count != int(count):
            raise InvalidArgument(f"{name}: {count}, expected an integer from 0 to 2^63 - 1")
    with np.errstate(over="ignore"):
        result = given.astype(view.dtype)
    if np.any(np.isinf(result) & np.isfinite(given)):
        raise InvalidArgument(f"{name}: {given}, expected values in the range of {view.dtype}")
    return result
