# SPDX-License-Identifier: Apache-2.0

"""Public names: the module that they show, in tracebacks and pickles, and the examples in their documentation."""

import doctest
import pickle
import traceback
import types
import typing

import pytest
import syncbn
from syncbn import _layer

PUBLIC = [getattr(syncbn, name) for name in syncbn.__all__ if name != "__version__" and name != "bits_version"]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_they_show_the_public_module(thing):
    assert isinstance(thing, (type, types.FunctionType))
    assert thing.__module__ == "syncbn" and thing.__doc__
    assert pickle.loads(pickle.dumps(thing)) is thing
    assert b"syncbn._" not in pickle.dumps(thing)
    typing.get_type_hints(thing)


def test_what_is_private_shows_its_file():
    """Control."""
    assert _layer.LayerSpec.__module__ == "syncbn._layer_spec"


def test_tracebacks():
    try:
        syncbn.SyncBatchNorm(0)
    except ValueError as error:
        assert traceback.format_exception_only(error)[0].startswith("syncbn.InvalidArgument: num_features: 0")


def test_pickles_of_layers_hold_public_names_only():
    data = pickle.dumps(syncbn.SyncBatchNorm(3, activation="relu", process_group="world"))
    assert b"syncbn" in data and b"syncbn._" not in data


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_examples_in_the_documentation(thing):
    tests = [test for test in doctest.DocTestFinder().find(thing, module=False, globs={}) if test.examples]
    assert bool(tests) == (thing.__name__ in ("SyncBatchNorm", "all_reduce_matmul", "all_reduce_sum",
                                                  "create_group", "run_ranks"))
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0
