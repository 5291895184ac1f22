"""Checks of arguments that say argument, value and what is allowed."""

import operator

import numpy as np

from ._errors import InvalidArgument


def integer(name, value):
    """An int; a NumPy integer will do, a bool or float will not."""
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name}: {value!r}, expected an int")


def real(name, value):
    """A float, or an int as one."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{name}: {value!r}, expected a float")


def boolean(name, value):
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}: {value!r}, expected a bool")


def string(name, value):
    if isinstance(value, str):
        return value
    raise TypeError(f"{name}: {value!r}, expected a str")


def choice(name, value, allowed):
    if string(name, value) in allowed:
        return value
    raise InvalidArgument(f"{name}: {value!r}, expected one of {', '.join(map(repr, allowed))}")


def ranks(name, value):
    """A list of ints, such as create_group takes."""
    if not isinstance(value, list):
        raise TypeError(f"{name}: {value!r}, expected a list of ranks")
    return [integer(f"{name}[{i}]", rank) for i, rank in enumerate(value)]
