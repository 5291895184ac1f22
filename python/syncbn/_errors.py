# SPDX-License-Identifier: Apache-2.0

"""Errors. A message names the argument, its value and what is allowed, or the group, the layer and the ranks."""

import builtins


class Error(Exception):
    """Base class of the errors of this package. A failed call changes no state of its layer."""


class InvalidArgument(Error, ValueError):
    """An argument of this rank has a wrong value, or all ranks found the same fault in the same sum.

    An argument of a wrong type raises a `TypeError` instead.
    """


class MismatchError(Error):
    """The ranks of a group made different calls. Every rank raises this error; the group is broken afterwards."""


class PeerError(Error):
    """A peer failed before its call or died, or its connection broke. The group is broken afterwards."""


class TimeoutError(Error, builtins.TimeoutError):
    """The peers' data did not arrive by the deadline. The group is broken afterwards."""


class GroupError(Error, RuntimeError):
    """The group is unknown, destroyed, broken or not initialized, or this rank is not a member."""
