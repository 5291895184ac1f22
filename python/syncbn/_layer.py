"""The layer on NumPy arrays."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _checks, _core
from ._errors import InvalidArgument
from ._process_group import resolve

_PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_GRADIENTS = ("weight_grad", "bias_grad")
_VIEWS = frozenset(_PARAMETERS + _GRADIENTS)
_OF_THE_CORE = {"_group", "_core", "_pass", *_VIEWS}  # attributes that _make_core sets
_FIXED = frozenset(("num_features", "eps", "momentum", "affine", "track_running_stats", "process_group", "dtype",
                    "channels_last", "activation", "affine_gradients", "nonfinite"))
_CORE_DTYPES = {name: getattr(_core.DType, name) for name in ("float16", "bfloat16", "float32", "float64")}


class SyncBatchNorm:
    """Batch normalization with the statistics of a whole group of ranks, on NumPy arrays.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` per channel, mean and biased variance taken over all
    elements that the ranks of the group bring, uneven and empty shares included. Results have the same bits for
    every number of ranks, every split of the batch, every number of threads and both memory orders.

    Parameters
    ----------
    num_features : int
        Number of channels C of an input of shape (N, C, ...).
    eps : float
        Added to the variance, under the root; finite, not negative.
    momentum : float or None
        Weight of the new statistics in the running ones, in [0, 1]; None is a cumulative average.
    affine : bool
        Whether `weight` and `bias` exist.
    track_running_stats : bool
        Whether running statistics exist; without them evaluation uses the batch's own.
    process_group : str, list of int, or engine, optional
        Which ranks share statistics. None is the world; a name is one given to `create_group`; a list holds world
        ranks in [0, world size); an engine is a communicator of mpi4py, or any object with int attributes `rank`
        and `size` and a method ``all_reduce_sum(array, timeout)`` that sums a C-contiguous int64 array in place
        over its ranks within `timeout` seconds.
    dtype : NumPy dtype, optional
        Of parameters and buffers: float16, bfloat16 (of ml_dtypes), float32 or float64; None is float32. Input may
        have another of these.
    channels_last : bool
        Whether the axes of input and output are (N, ..., C).
    activation : {None, "relu"}
        Applied to the output, after a residual is added.
    affine_gradients : {"local", "group"}
        Whose sums the gradients of weight and bias are: this rank's own, which a data-parallel program adds up
        itself, or the group's.
    nonfinite : {"propagate", "skip_update", "error"}
        What happens where a channel's statistics are not finite: the running statistics take them, stay as they
        are, or the call is an error on every rank.
    name : str
        Names the layer in messages and tells it from the group's others; by default it is numbered.

    Attributes
    ----------
    weight, bias : numpy.ndarray of shape (C,), or None
        Live views: what is written to them, the layer uses. An assignment to the attribute writes to the view.
    running_mean, running_var : numpy.ndarray of shape (C,), or None
    num_batches_tracked : numpy.ndarray of shape () and int64, or None
    weight_grad, bias_grad : numpy.ndarray of shape (C,), or None
        Overwritten by every `backward`.
    training : bool

    The arguments are attributes, too, and fixed.

    Raises
    ------
    TypeError
        An argument of a wrong type: `num_features` no int, `eps` no float, ...
    InvalidArgument
        (A ValueError.) `num_features` < 1, `momentum` outside [0, 1], a rank of `process_group` outside
        [0, world size), ...
    GroupError
        (A RuntimeError.) `process_group` unknown, or this rank is not in it.

    Notes
    -----
    A new layer is in training mode. Calls in training are collective: every rank of the group makes them, in the
    same order; a difference is a MismatchError on every rank. Evaluation never communicates. A failed call changes
    nothing in the layer. One thread at a time uses a layer.

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
        """What computes, by the arguments that the layer was made with."""
        self._group = resolve(self.process_group)  # keeps the group of an engine
        self._core = _core.Layer(
            self.num_features, eps=self.eps, momentum=self.momentum, affine=self.affine,
            track_running_stats=self.track_running_stats, process_group=self._group,
            dtype=_CORE_DTYPES[self.dtype.name], activation=self.activation or "none",
            affine_gradients=self.affine_gradients, nonfinite=self.nonfinite, name=name)
        self._pass = _core.Pass()
        memory = self._core.memory()
        for entry in _PARAMETERS + _GRADIENTS:
            view = memory.get(entry)
            if view is not None:
                counter = entry == "num_batches_tracked"
                view = view.view(np.int64).reshape(()) if counter else view.view(self.dtype)
            vars(self)[entry] = view

    def __setattr__(self, name, value):
        # What the core has taken does not follow the attribute.
        if name in _FIXED and "_core" in vars(self):
            raise AttributeError(f"{name}: fixed when the layer is made, to {getattr(self, name)!r}")
        if name in _VIEWS:
            view = getattr(self, name)
            if value is view:  # after `bn.weight *= 2`
                return
            if view is None:
                raise AttributeError(f"{name}: this layer has none")
            view[...] = _converted(name, np.asarray(value), view)
            return
        super().__setattr__(name, value)

    @property
    def name(self) -> str:
        """The given name, else "#k": the k-th unnamed layer of its group; "" in a group of one."""
        return self._core.name

    @property
    def training(self) -> bool:
        """Whether the layer is in training mode."""
        return self._core.training

    def set_train(self, mode: bool = True) -> SyncBatchNorm:
        """Switch to training, or to evaluation.

        Parameters
        ----------
        mode : bool

        Returns
        -------
        SyncBatchNorm
            This layer.
        """
        self._core.training = _checks.boolean("mode", mode)
        return self

    train = set_train

    def eval(self) -> SyncBatchNorm:
        """Switch to evaluation. Returns this layer."""
        return self.set_train(False)

    def __call__(self, x: Any, residual: Any = None) -> np.ndarray:
        """Normalize `x`: in training with the statistics of the group's batch, in evaluation with the running ones.

        Parameters
        ----------
        x : numpy.ndarray, or any array on the CPU with ``__dlpack__``
            Of shape (N, C, ...), or (N, ..., C) with `channels_last`; N may be 0. Dense arrays of either memory
            order are used where they lie; others are copied. It must not change before `backward`.
        residual : array like `x`, optional
            Added before the activation.

        Returns
        -------
        numpy.ndarray
            Of the shape, dtype and memory order of `x`.

        Raises
        ------
        TypeError, InvalidArgument
            `x` or `residual` is no such array; or, in training, the whole group has one element a channel.
        MismatchError, PeerError, TimeoutError, GroupError
            See there. The layer is unchanged.
        """
        if type(x) is not np.ndarray:
            x = self._array("x", x)
        if residual is not None and type(residual) is not np.ndarray:
            residual = self._array("residual", residual)
        done = _core.Pass()
        y = self._core.forward(done, x, residual, self.channels_last)
        vars(self)["_pass"] = done
        return y

    forward = __call__

    def backward(self, dy: Any) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return the gradient of x of the last call, and put those of weight and bias into `weight_grad`, `bias_grad`.

        After a call in training it joins the group's sum.

        Parameters
        ----------
        dy : array like the output
            Gradient of the output.

        Returns
        -------
        dx : numpy.ndarray, or (dx, dz)
            With dz, the gradient of the residual, where there was one.

        Raises
        ------
        TypeError, InvalidArgument
            `dy` is no such array, or there was no call.
        MismatchError, PeerError, TimeoutError, GroupError
            See there. The layer is unchanged.
        """
        if type(dy) is not np.ndarray:
            dy = self._array("dy", dy, self._pass)
        return self._core.backward(self._pass, dy, self.channels_last)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters and buffers that the layer has, by name."""
        return {name: view.copy() for name, view in self._values().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take values from a dict such as `state_dict` returns.

        Parameters
        ----------
        state : dict of str to array
            Exactly the layer's names. Real numbers of any type are rounded to the layer's dtype.

        Raises
        ------
        TypeError
            A value is of another type.
        InvalidArgument
            (A ValueError.) Names or shapes are others than the layer's, a finite value has no place in the layer's
            dtype, or the counter is negative or no whole number. Nothing is changed in any of these cases.
        """
        own = self._values()
        if not isinstance(state, Mapping):
            raise TypeError(f"state: {type(state).__name__}, expected a dict")
        if set(state) != set(own):
            raise InvalidArgument(f"state: has {', '.join(sorted(map(str, state))) or 'nothing'}, expected "
                                  f"{', '.join(own) or 'nothing'}")
        values = {}
        for name, view in own.items():
            values[name] = _converted(name, np.asarray(state[name]), view)
        for name, view in own.items():
            view[...] = values[name]

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0, and reset the running statistics."""
        self._core.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set running_mean to 0, running_var to 1 and num_batches_tracked to 0."""
        self._core.reset_running_stats()

    def __repr__(self) -> str:
        further = "".join(f", {name}={getattr(self, name)!r}" for name, default in
                          (("channels_last", False), ("activation", None), ("affine_gradients", "local"),
                           ("nonfinite", "propagate")) if getattr(self, name) != default)
        return (f"SyncBatchNorm(\n  num_features={self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, track_running_stats={self.track_running_stats}{further}\n)")

    # Copies, by copy or pickle, have their own values and the same name: to the group they are the same layer. What a
    # subclass adds goes with them, whatever arguments its own __init__ has.

    def __getstate__(self):
        attributes = {name: value for name, value in vars(self).items() if name not in _OF_THE_CORE}
        values = {name: view.copy() for name, view in self._values().items()}
        return {"attributes": attributes, "name": self.name, "training": self.training, "values": values}

    def __setstate__(self, saved):
        vars(self).update(saved["attributes"])
        self._make_core(saved["name"])
        self._core.training = saved["training"]
        for name, view in self._values().items():
            view[...] = saved["values"][name]

    def __deepcopy__(self, memo):
        memo[id(self.process_group)] = self.process_group  # a copy shares it
        result = memo[id(self)] = type(self).__new__(type(self))
        result.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return result

    def _values(self):
        """The parameters and buffers that the layer has, by name."""
        return {name: getattr(self, name) for name in _PARAMETERS if getattr(self, name) is not None}

    def _array(self, name, value, of=None):
        """A NumPy array of what has its memory on the CPU; the peers hear of it where there is none, those that wait
        for the backward of the pass `of` too."""
        try:
            if isinstance(value, np.ma.MaskedArray):
                raise TypeError(f"{name}: a masked array, expected one without a mask: statistics would not heed it")
            if isinstance(value, np.ndarray):
                return value.view(np.ndarray)
            if not hasattr(value, "__dlpack__"):
                raise TypeError(f"{name}: {type(value).__name__}, expected a NumPy array or one with __dlpack__")
            return np.from_dlpack(value)
        except Exception as error:
            self._core.fail(str(error), of)
            raise


def _dtype(given):
    try:
        dtype = np.dtype(np.float32 if given is None else given)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in _CORE_DTYPES or not dtype.isnative:
        raise TypeError(f"dtype: {given!r}, expected float16, bfloat16, float32 or float64")
    return dtype


def _converted(name, given, view):
    """`given` as the dtype of the layer's `view`; an error where more than a rounding would be lost."""
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
        raise InvalidArgument(f"{name}: {given}, expected values that {view.dtype} has")
    return result
