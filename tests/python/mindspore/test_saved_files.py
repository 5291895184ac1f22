# SPDX-License-Identifier: Apache-2.0

"""Files of version 0.1.0 in tests/fixtures/mindspore: every later version loads them, with the same values and results."""

import pathlib
import pickle
import sys

import mindspore
import numpy as np
import pytest
from mindspore import nn

from syncbn.mindspore import SyncBatchNorm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fixtures"))
import saved  # noqa: E402
from make_mindspore import CASES, CHECKPOINTS, batch, facts_of, layer_of, values_of  # noqa: E402

FOLDER = saved.HERE / "mindspore"
EXPECTED = saved.expected("mindspore")


def check(layer, expected, arguments):
    assert type(layer) is SyncBatchNorm
    assert facts_of(layer) == expected
    defaults = {"affine": True, "track_running_stats": True, "momentum": 0.1, "eps": 1e-5, "dtype": mindspore.float32}
    for name, value in {**defaults, **arguments}.items():
        assert getattr(layer, name) == value
    layer.set_train()
    gradients = mindspore.grad(lambda x: layer(x).sum(), 0)(batch(2))
    assert gradients.shape == saved.SHAPE
    if layer.track_running_stats:
        assert layer.num_batches_tracked.asnumpy() == 3


@pytest.mark.parametrize("case", CASES)
def test_pickle(case):
    data = (FOLDER / f"{case}.pickle").read_bytes()
    assert b"syncbn.mindspore._layer" in data  # otherwise this would not show that the name still loads
    check(pickle.loads(data), EXPECTED[case], CASES[case])


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoint(case):
    net = nn.SequentialCell(SyncBatchNorm(saved.CHANNELS, **CASES[case]), nn.ReLU())
    expected = {f"0.{name}": value for name, value in EXPECTED[case]["values"].items()}
    assert values_of(net) != expected
    file = mindspore.load_checkpoint(str(FOLDER / f"{case}.ckpt"))
    assert mindspore.load_param_into_net(net, file) == ([], [])
    assert values_of(net) == expected
    net.set_train(False)
    y = np.maximum(net[0](batch()).asnumpy(), 0)
    assert net[0](batch()).asnumpy().tobytes().hex() == EXPECTED[case]["y"]
    assert (net(batch()).asnumpy() == y).all()


def test_a_changed_value_is_seen():
    """Control: one unit in the last place of one value."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        layer = pickle.loads((FOLDER / "plain.pickle").read_bytes())
        parameter = getattr(layer, name)
        value = parameter.asnumpy().copy()
        value[2] = np.nextafter(value[2], np.float32(9))
        parameter.set_data(mindspore.Tensor(value))
        assert facts_of(layer) != EXPECTED["plain"], name


@pytest.mark.parametrize("case", CASES)
def test_files_made_now_are_loaded_too(case):
    """The same with the form that this version writes."""
    layer = layer_of(case)
    check(pickle.loads(pickle.dumps(layer)), facts_of(layer), CASES[case])


def test_pickles_made_now_hold_public_names_only():
    data = pickle.dumps(SyncBatchNorm(3))
    assert b"syncbn.mindspore" in data and b"syncbn.mindspore._" not in data and b"syncbn._" not in data
    assert SyncBatchNorm.__module__ == "syncbn.mindspore"
