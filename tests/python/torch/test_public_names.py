# SPDX-License-Identifier: Apache-2.0

"""Public names: the module that they show, in tracebacks and pickles, and the examples in their documentation."""

import copy
import doctest
import pickle

import pytest
import torch

import syncbn.torch
from syncbn.torch import SyncBatchNorm
from syncbn.torch._extra_options import identity_of

PUBLIC = [getattr(syncbn.torch, name) for name in syncbn.torch.__all__]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_they_show_the_public_module(thing):
    assert thing.__module__ == "syncbn.torch"
    assert pickle.loads(pickle.dumps(thing)) is thing


def test_copies_have_all_options_and_pickles_hold_public_names_only():
    layer = SyncBatchNorm(3, activation="relu", nonfinite="skip_update", name="a name of more than 64 bytes: " + 40 * "x")
    data = pickle.dumps(layer)
    assert b"syncbn.torch" in data and b"syncbn.torch._" not in data and b"syncbn._" not in data
    for again in (pickle.loads(data), copy.copy(layer), copy.deepcopy(layer)):
        assert again._extra.to_dict() == layer._extra.to_dict()
        name, number = identity_of(again._extra.name_tensor)
        assert name == layer.layer_name and number > identity_of(layer._extra.name_tensor)[1]  # another layer
        assert vars(again).keys() == vars(layer).keys()


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_examples_in_the_documentation(thing):
    tests = [test for test in doctest.DocTestFinder().find(thing, module=False, globs={}) if test.examples]
    assert bool(tests) == (thing.__name__ in ("SyncBatchNorm", "convert_sync_batchnorm", "name_layers"))
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0
