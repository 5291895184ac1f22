# SPDX-License-Identifier: Apache-2.0

"""Files of version 0.1.0 in tests/fixtures, by torch 2.15 and 2.4: every later version loads them, with the same values and
results."""

import gzip
import io
import pathlib
import pickle
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

import syncbn
from syncbn.torch import SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fixtures"))
import make_torch  # noqa: E402
import saved  # noqa: E402
from make_torch import CASES, FEW, TRACED, batch, bits, converted_model, facts_of, layer_of, values_of  # noqa: E402

IS_TORCH24 = torch.__version__.startswith("2.4.")
FOLDERS = "torch-2.15", "torch-2.4"
EXPECTED = {folder: saved.expected(folder) for folder in FOLDERS}
files = pytest.mark.parametrize("folder", FOLDERS)


def read(folder, name):
    return (saved.HERE / folder / name).read_bytes()


def load(folder, name, weights_only=False):
    return torch.load(io.BytesIO(gzip.decompress(read(folder, f"{name}.gz"))), weights_only=weights_only)


def dtype_of(case):
    return CASES[case].get("dtype", torch.float32)


def check(folder, case, layer):
    assert facts_of(layer, dtype_of(case)) == EXPECTED[folder][case]
    arguments = {"affine": True, "track_running_stats": True, "momentum": 0.1, "eps": 1e-5, "activation": None,
                 "nonfinite": "propagate", **CASES[case]}
    for name, value in arguments.items():
        if name not in ("name", "bias", "dtype"):
            assert getattr(layer, name) == value
    assert type(layer) is SyncBatchNorm
    if case == "grouped":
        return
    x = batch(dtype_of(case), step=2).requires_grad_()
    layer.train()(x).sum().backward()
    assert x.grad.shape == x.shape
    if layer.track_running_stats:
        assert layer.num_batches_tracked == 3


@files
def test_layers_saved_whole(folder):
    layers = load(folder, "layers.pt")
    assert layers.keys() == CASES.keys()
    for case, layer in layers.items():
        check(folder, case, layer)


@files
@pytest.mark.parametrize("case", FEW)
def test_pickle(folder, case):
    data = read(folder, f"{case}.pickle")
    assert b"syncbn.torch._layer" in data  # otherwise this would not show that the name still loads
    check(folder, case, pickle.loads(data))


@files
def test_a_layer_with_a_group_finds_it_by_name(folder):
    layer = pickle.loads(read(folder, "grouped.pickle"))
    with pytest.raises(syncbn.GroupError, match="no process group '1'"):
        layer(batch())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        group = dist.new_group([0])  # named 1, as it was when the layer was saved
        assert layer.process_group is group
        layer(batch())
    finally:
        dist.destroy_process_group()


@files
def test_state_dicts(folder):
    states = load(folder, "layers.state.pt", weights_only=True)
    assert tuple(states) == FEW
    for case, state in states.items():
        layer = SyncBatchNorm(saved.CHANNELS, **{"name": EXPECTED[folder][case]["name"], **CASES[case]})
        assert values_of(layer) != EXPECTED[folder][case]["values"]
        layer.load_state_dict(state)
        check(folder, case, layer)
    if IS_TORCH24:
        return
    other = nn.BatchNorm1d(saved.CHANNELS)  # the same names as in torch's own layers
    other.load_state_dict(states["plain"])
    assert values_of(other) == EXPECTED[folder]["plain"]["values"]


@files
def test_converted_model(folder):
    expected = EXPECTED[folder]["model"]
    for model in (load(folder, "model.pt"), converted_model()):
        model.load_state_dict(load(folder, "model.state.pt", weights_only=True))
        assert values_of(model) == expected["values"]
    model = load(folder, "model.pt")
    layers = {name: layer for name, layer in model.named_children() if isinstance(layer, SyncBatchNorm)}
    assert {name: facts_of(layer) for name, layer in layers.items()} == expected["layers"]
    model(batch())
    model.eval()
    y = model(batch())
    revert_sync_batchnorm(model)
    assert [type(model[int(name)]) for name in expected["layers"]] == [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm]
    convert_sync_batchnorm(model)
    assert torch.equal(model(batch()), y)


@pytest.mark.skipif(IS_TORCH24, reason="made by a newer torch")
@pytest.mark.parametrize("case", TRACED)
@pytest.mark.parametrize("kind", ["traced.pt", "exported.pt2"])
@pytest.mark.filterwarnings("ignore")  # torch means to give its tracer up
def test_graphs_with_the_operators(case, kind):
    """torch.jit.trace and torch.export keep the calls of syncbn's operators, with the settings as a string."""
    file = io.BytesIO(gzip.decompress(read("torch-2.15", f"{case}.{kind}.gz")))
    model = torch.export.load(file).module() if kind.startswith("exported") else torch.jit.load(file)
    assert values_of(model) == EXPECTED["torch-2.15"][case]["values"]
    expected = EXPECTED["torch-2.15"]["traced"][case]
    assert {"y": bits(model(batch())), "values": values_of(model)} == expected
    # Control: another input gives another result, and in training other statistics.
    assert bits(model(batch(step=1))) != expected["y"]
    assert (values_of(model) != expected["values"]) == (case == "plain")


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_a_changed_value_is_seen(name):
    """Control: one unit in the last place of one value."""
    layer = load("torch-2.15", "layers.pt")["plain"]
    value = getattr(layer, name).detach()
    value[2] = torch.nextafter(value[2], torch.tensor(9.0))
    assert facts_of(layer) != EXPECTED["torch-2.15"]["plain"]


def test_files_made_now_are_loaded_too():
    """The same with the form that this version writes."""
    for case in CASES:
        layer = layer_of(case)
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        for again in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(layer))):
            assert facts_of(again, dtype_of(case)) == facts_of(layer, dtype_of(case))
