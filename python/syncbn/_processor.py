# SPDX-License-Identifier: Apache-2.0

"""Threads and instruction set of a call."""

from . import _checks, _core


def get_num_threads() -> int:
    """Return the number of threads that a call from this thread may use."""
    return _core.get_num_threads()


def set_num_threads(count: int) -> None:
    """Set the number of threads that a call from this thread may use. It does not change the bits of any result.

    Parameters
    ----------
    count : int
        In [0, 4096]; 0 restores the default.

    Raises
    ------
    TypeError
        `count` is not an int.
    InvalidArgument
        (A ValueError.) `count` is outside [0, 4096].
    """
    _core.set_num_threads(_checks.integer("count", count, 32))


def available_isas() -> list[str]:
    """Return the instruction sets that both this build and this machine have, best first."""
    return _core.available_isas()


def active_isa() -> str:
    """Return the instruction set in use: that of the variable SYNCBN_ISA, else the best available one."""
    return _core.active_isa()
