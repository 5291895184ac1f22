# SPDX-License-Identifier: Apache-2.0

"""Checks of a module _private, which holds all private names of a framework, for the tests of torch and MindSpore."""

import importlib.util
import pathlib
import re


def import_anew(private):
    """Runs the module's code once more, which looks all names up."""
    spec = importlib.util.spec_from_file_location("private_anew", private.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def count_of_names(private):
    """How often the module looks a name up with its function _private()."""
    return pathlib.Path(private.__file__).read_text().count("_private(") - 1


def uses_elsewhere(private, *patterns):
    """What the other files of the module's package have of the patterns, which stand for private names."""
    found = []
    for file in sorted(pathlib.Path(private.__file__).parent.glob("*.py")):
        if file.name != "_private.py":
            found += [f"{file.name}: {pattern}" for pattern in patterns if re.search(pattern, file.read_text())]
    return found
