# SPDX-License-Identifier: Apache-2.0

"""Checks of arguments. Their errors name the argument, its value and what is allowed."""

import operator

import numpy as np

from ._errors import InvalidArgument


def integer(name, value, bits=64):
    """`value` as an int of at most `bits` bits. NumPy integers are allowed, bools and floats are not."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {value!r}, expected an int")
    if not -2**(bits - 1) <= number < 2**(bits - 1):
        raise InvalidArgument(f"{name}: {number}, expected an int of {bits} bits")
    return number


def real(name, value):
    """`value`, a float or an int, as a float."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InvalidArgument(f"{name}: {value}, expected a float") from None
    raise TypeError(f"{name}: {value!r}, expected a float")


def boolean(name, value):
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}: {value!r}, expected a bool")


def string(name, value):
    """`value`, a str that UTF-8 can encode. It can't encode a lone surrogate."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: {value!r}, expected a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{name}: {value!r}, expected text that UTF-8 can encode") from None
    return value


def choice(name, value, allowed):
    if string(name, value) in allowed:
        return value
    raise InvalidArgument(f"{name}: {value!r}, expected one of {', '.join(map(repr, allowed))}")


def ranks(name, value):
    """`value`, a list of ints, as `create_group` takes it."""
    if not isinstance(value, list):
        raise TypeError(f"{name}: {value!r}, expected a list of ranks")
    return [integer(f"{name}[{i}]", rank, 32) for i, rank in enumerate(value)]
