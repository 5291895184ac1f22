# SPDX-License-Identifier: Apache-2.0

"""Files of version 0.1.0 in tests/fixtures/numpy: every later version loads them, with the same values and results."""

import pathlib
import pickle
import sys

import numpy as np
import pytest
import syncbn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fixtures"))
import make_numpy  # noqa: E402
import saved  # noqa: E402
from make_numpy import CASES, batch, facts_of  # noqa: E402

FOLDER = saved.HERE / "numpy"
EXPECTED = saved.expected("numpy")
OF_TWO_RANKS = "listed", "grouped"


def load(case):
    return pickle.loads((FOLDER / f"{case}.pickle").read_bytes())


def check(case):
    layer = load(case)
    assert facts_of(layer) == EXPECTED[case]
    for name, value in CASES.get(case, CASES["relu"]).items():
        assert getattr(layer, name) == value
    assert type(layer) is syncbn.SyncBatchNorm
    x = batch(layer.train(), step=2)
    assert layer(x).shape == layer.backward(x).shape
    if layer.track_running_stats:
        assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("case", EXPECTED.keys() - set(OF_TWO_RANKS))
def test_pickle(case):
    check(case)


@pytest.mark.parametrize("case", OF_TWO_RANKS)
def test_pickle_of_a_layer_with_a_group(case):
    def body(rank):
        syncbn.create_group("pair", [0, 1])
        check(case)

    syncbn.run_ranks(2, body)
    with pytest.raises((syncbn.GroupError, ValueError), match="pair|rank 1"):  # control: the group is part of the file
        load(case)


def test_pickles_hold_the_private_module_of_their_time():
    """Control: with other contents the tests above would not show that these names still load."""
    for case in EXPECTED:
        assert b"syncbn._layer" in (FOLDER / f"{case}.pickle").read_bytes()


def test_a_changed_value_is_seen():
    """Control: one unit in the last place of one value."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        layer = load("plain")
        getattr(layer, name)[2] = np.nextafter(getattr(layer, name)[2], np.float32(9))
        assert facts_of(layer) != EXPECTED["plain"], name


@pytest.mark.parametrize("case", ["plain", "no_affine", "float64"])
def test_state_dict(case):
    layer = syncbn.SyncBatchNorm(saved.CHANNELS, **CASES[case])
    assert facts_of(layer)["values"] != EXPECTED[case]["values"]
    with np.load(FOLDER / f"{case}.npz") as file:
        layer.load_state_dict(dict(file))
    assert facts_of(layer) == EXPECTED[case]


def test_errors():
    errors = pickle.loads((FOLDER / "errors.pickle").read_bytes())
    assert [(type(error), str(error)) for error in errors] == [
        (cls, f"a {cls.__name__}") for cls in (syncbn.Error, syncbn.GroupError, syncbn.InvalidArgument,
                                               syncbn.MismatchError, syncbn.PeerError, syncbn.TimeoutError)]


def test_files_made_now_are_loaded_too(tmp_path, monkeypatch):
    """The same with the form that this version writes."""
    make_numpy.make(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", tmp_path)
    for case in EXPECTED.keys() - set(OF_TWO_RANKS):
        check(case)
