"""How many threads a call may use."""

from . import _checks, _core


def set_num_threads(count: int) -> None:
    """Set how many threads a call from this thread may use. The results' bits do not depend on it.

    Parameters
    ----------
    count : int
        In [0, 4096]; 0 restores the default.

    Raises
    ------
    TypeError
        `count` is no int.
    InvalidArgument
        (A ValueError.) Outside [0, 4096].
    """
    _core.set_num_threads(_checks.integer("count", count, 32))
