# SPDX-License-Identifier: Apache-2.0

"""Each private name of MindSpore in syncbn.mindspore._private: it is there, and it does what the layer relies on."""

import importlib
import pathlib
import subprocess
import sys

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from syncbn.mindspore import SyncBatchNorm, _private

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from private_names import count_of_names, import_anew, uses_elsewhere  # noqa: E402

NAMES = [
    ("mindspore.common._grad_function", "_Function"),
    ("mindspore.common.dtype", "dtype_to_nptype"),
    ("mindspore.graph.jit_context", "jit_context"),
    ("mindspore.communication", "GlobalComm"),
    ("mindspore._c_expression", "MixedPrecisionType"),
    ("mindspore.graph.api", "_pynative_executor"),
    ("mindspore.common.recompute", "_RecomputeHandle"),
]


@pytest.mark.parametrize("module, name", NAMES, ids=[name for _, name in NAMES])
def test_a_missing_name_is_an_error_that_names_it(module, name, monkeypatch):
    import_anew(_private)
    monkeypatch.delattr(importlib.import_module(module), name)
    with pytest.raises(ImportError, match=f"syncbn.mindspore needs {module}.{name} .* MindSpore {mindspore.__version__}"):
        import_anew(_private)


def test_the_list_of_names_is_complete():
    assert count_of_names(_private) == len(NAMES)


def test_no_other_file_uses_a_private_name_of_mindspore():
    patterns = (r"\bmindspore\._", r"mindspore\.common", r"mindspore\.graph", r"\._params", r"\._cells",
                "(?<!_private )import GlobalComm")
    assert uses_elsewhere(_private, *patterns) == []
    assert uses_elsewhere(_private, "import mindspore\n") != []  # control


class Double(_private.AutogradFunction):
    @staticmethod
    def forward(ctx, factor, x):
        ctx.factor = factor
        ctx.save_for_backward(x)
        return Tensor(factor * x.asnumpy())

    @staticmethod
    def backward(ctx, dy):
        assert ctx.saved_tensors[0].shape == dy.shape and ctx.needs_input_grad == (False, True)
        return None, dy * ctx.factor


def test_functions_with_a_backward():
    x = Tensor(np.ones(3, np.float32))
    assert (mindspore.grad(lambda x: Double.apply(4, x).sum())(x).asnumpy() == 4).all()


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_numpy_dtypes(name):
    assert _private.numpy_dtype(getattr(mindspore, name)) == np.dtype(name)


def test_bfloat16():
    assert np.dtype(_private.numpy_dtype(mindspore.bfloat16)).name == "bfloat16"


def test_jit(tmp_path):
    """In a process of its own: pytest's frames have no source, for which MindSpore's tracer asks."""
    program = pathlib.Path(__file__).with_name("traced.py")
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=200,
                          check=False)
    assert [line for line in done.stdout.splitlines() if ": " in line] == ["before: False", "traced: True",
                                                                           "after: False"], done


def test_the_world():
    assert _private.GlobalComm.INITED is False
    assert SyncBatchNorm(2).process_group == _private.GlobalComm.WORLD_COMM_GROUP != ""


@pytest.mark.parametrize("dtype", [mindspore.float16, mindspore.bfloat16, mindspore.float32])
def test_casts_by_to_float(dtype):
    cell = nn.ReLU()
    assert cell.mixed_precision_type not in _private.CAST_BY_TO_FLOAT
    cell.to_float(dtype)
    assert _private.CAST_BY_TO_FLOAT[cell.mixed_precision_type] == dtype


def test_backward_passes():
    seen = []

    class Function(_private.AutogradFunction):
        @staticmethod
        def forward(ctx, x):
            seen.append(_private.backward_pass_id() != -1)
            return Tensor(x.asnumpy())

        @staticmethod
        def backward(ctx, dy):
            seen.append(_private.backward_pass_id() != -1)
            return dy

    mindspore.grad(lambda x: Function.apply(x).sum())(Tensor(np.ones(2, np.float32)))
    assert seen == [False, True] and _private.backward_pass_id() == -1


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "hooks"])
def test_recomputations(use_reentrant):
    seen = []

    class Block(nn.Cell):
        def construct(self, x):
            frame, found = sys._getframe(), []
            while frame is not None:
                found.append(_private.recomputer_of(frame))
                frame = frame.f_back
            seen.append(([pair for pair in found if pair[0] is not None], _private.gradients_are_on(),
                         _private.saves_by_hooks()))
            return x * x

    block = Block()
    mindspore.grad(lambda x: mindspore.recompute(block, x, use_reentrant=use_reentrant).sum())(Tensor(np.ones(2, np.float32)))
    (first, gradients, hooks), (second, *_) = seen
    assert (gradients, hooks) == (not use_reentrant, not use_reentrant)
    assert _private.gradients_are_on() and not _private.saves_by_hooks()
    assert [is_repetition for _, is_repetition in first] == [False]
    assert second[-1] == (first[0][0], True)


def test_parameters_of_a_cell():
    layer = SyncBatchNorm(2, affine=False)
    parameters = _private.parameters_of(layer)
    assert parameters["running_mean"] is layer.running_mean and parameters.get("weight") is None


def test_children_of_a_cell():
    net = nn.SequentialCell(nn.ReLU(), nn.Tanh())
    _private.cells_of(net)["1"] = net[0]
    assert net[1] is net[0] and list(_private.cells_of(net)) == ["0", "1"]


@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook", "backward_hook", "backward_pre_hook"])
def test_hooks_of_a_cell(kind):
    cell = nn.ReLU()
    assert not _private.has_hooks(cell)
    getattr(cell, f"register_{kind}")(lambda *arguments: None)
    assert _private.has_hooks(cell)
