# SPDX-License-Identifier: Apache-2.0

"""Exact sums of NumPy arrays over the ranks of a group."""

import numpy as np

from . import _checks, _core
from ._errors import InvalidArgument
from ._groups import WORLD


def all_reduce_sum(values: np.ndarray, group: str = WORLD) -> None:
    """Replace each value by its sum over the ranks of the group. Each sum is exact and rounded once.

    A data-parallel program adds its gradients with this function. The bits do not depend on the order of the ranks.

    Parameters
    ----------
    values : numpy.ndarray of float32 or float64
        C-contiguous and writable; size and dtype are the same on every rank.
    group : str
        Name of the group; by default the world.

    Raises
    ------
    TypeError
        `values` is not an array of float32 or float64, or `group` is not a str.
    InvalidArgument
        (A ValueError.) `values` is not C-contiguous, aligned and writable.
    MismatchError, PeerError, TimeoutError, GroupError
        See these classes. `values` is unchanged.

    Examples
    --------
    >>> import numpy as np, syncbn
    >>> def body(rank):
    ...     gradient = np.full(3, 0.5 + rank, np.float32)
    ...     syncbn.all_reduce_sum(gradient)
    ...     return gradient
    >>> syncbn.run_ranks(2, body)[0]
    array([2., 2., 2.], dtype=float32)
    """
    _checks.string("group", group)
    if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float64):
        raise TypeError(f"values: {type(values).__name__} of {getattr(values, 'dtype', None)}, expected a NumPy "
                        "array of float32 or float64")
    if not (values.flags.c_contiguous and values.flags.writeable and values.flags.aligned):
        raise InvalidArgument(f"values: strides {values.strides} for shape {values.shape}, writeable = "
                              f"{values.flags.writeable}, expected a C-contiguous, aligned, writable array")
    _core.all_reduce_sum(values.ctypes.data, values.size, values.dtype == np.float64, group)
