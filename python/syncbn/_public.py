# SPDX-License-Identifier: Apache-2.0

"""The public module of a class or function, as tracebacks, repr and pickles name it."""

import types
from collections.abc import Iterable


def set_public_module(module: str, members: Iterable[object]) -> None:
    """Let `members` name `module`, from which users import them, instead of the private file that defines them.

    Pickles of a class hold this name, so that the private files may be renamed.
    """
    for member in members:
        if isinstance(member, (type, types.FunctionType)):
            member.__module__ = module
