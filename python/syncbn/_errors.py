"""Errors. Each says in its message what is known: argument, value, what is allowed, group, layer, ranks."""

import builtins


class Error(Exception):
    """Root of everything this package raises on purpose. A failed call changes no state of its layer."""


class InvalidArgument(Error, ValueError):
    """This rank's own argument has a wrong value, or every rank sees the same fault in the same sum.

    Arguments of a wrong type are a `TypeError`.
    """


class MismatchError(Error):
    """The ranks of a group made different calls. Raised on every rank; the group is broken afterwards."""


class PeerError(Error):
    """A peer failed before its call, died, or its connection broke. The group is broken afterwards."""


class TimeoutError(Error, builtins.TimeoutError):
    """Nothing arrived by the deadline. The group is broken afterwards."""


class GroupError(Error, RuntimeError):
    """The group is unknown, destroyed, broken or not initialised, or this rank is no member of it."""
