# SPDX-License-Identifier: Apache-2.0

"""Exact products of matrices whose rows lie on the ranks of a group."""

import numpy as np

from . import _checks, _core
from ._dtypes import CORE_DTYPES
from ._errors import InvalidArgument
from ._groups import WORLD


def all_reduce_matmul(a: np.ndarray, b: np.ndarray, group: str = WORLD) -> np.ndarray:
    """Return ``a.T @ b`` over the rows of all ranks of the group. Each sum is exact and rounded once.

    The bits depend neither on the order nor on which rank has a row. Such products are the gradients of a linear
    layer's weights; a column of ones gives sums. They cost far more than NumPy's matmul: meant for small networks,
    tests and audits.

    Parameters
    ----------
    a, b : numpy.ndarray of float32 or float64
        Matrices of the same dtype, (rows, columns). Ranks may have different numbers of rows, also none. The
        columns and the dtype are the same on every rank.
    group : str
        Name of the group; by default the world.

    Returns
    -------
    numpy.ndarray
        All of the product, on every rank: (columns of a, columns of b), dtype as of a and b.

    Raises
    ------
    TypeError
        `a` or `b` is not an array of float32 or float64, or `group` is not a str.
    InvalidArgument
        (A ValueError.) `a` or `b` is no matrix, or they differ in dtype or rows.
    MismatchError, PeerError, TimeoutError, GroupError
        See these classes.

    Examples
    --------
    >>> import numpy as np, syncbn
    >>> def body(rank):
    ...     x = np.full((rank + 1, 2), 0.5, np.float32)
    ...     return syncbn.all_reduce_matmul(x, np.ones((rank + 1, 1), np.float32))
    >>> syncbn.run_ranks(2, body)[0]
    array([[1.5],
           [1.5]], dtype=float32)
    """
    _checks.string("group", group)
    for name, values in (("a", a), ("b", b)):
        if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name}: {type(values).__name__} of {getattr(values, 'dtype', None)}, expected a NumPy "
                            "array of float32 or float64")
        if values.ndim != 2 or values.shape[1] == 0:
            raise InvalidArgument(f"{name}: shape {values.shape}, expected (rows, columns) with at least one column")
    a, b = (np.require(values, requirements=["C", "A"]) for values in (a, b))
    c = np.empty((a.shape[1], b.shape[1]), a.dtype)
    in_core_a, in_core_b, in_core_c = ((values.ctypes.data, values.shape, CORE_DTYPES[values.dtype.name])
                                       for values in (a, b, c))
    _core.all_reduce_matmul(in_core_a, in_core_b, in_core_c, group)
    return c
