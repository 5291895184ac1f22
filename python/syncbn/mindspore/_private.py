# SPDX-License-Identifier: Apache-2.0

"""The private and undocumented names of MindSpore in use.

MindSpore may change them in any release. All of them are looked up here, when `syncbn.mindspore` is imported: a MindSpore
without one of them is an error that names it. tests/python/mindspore/test_private_names.py checks what each does.
"""

import importlib

import mindspore
from mindspore import nn


def _private(module, name, purpose):
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise ImportError(f"syncbn.mindspore needs {module}.{name} {purpose}, which MindSpore {mindspore.__version__} does "
                          "not have; use another version of MindSpore or a newer syncbn") from None


#: Base class of functions with a backward written in Python.
AutogradFunction = _private("mindspore.common._grad_function", "_Function", "to define its gradients")
#: The NumPy dtype of a MindSpore dtype.
numpy_dtype = _private("mindspore.common.dtype", "dtype_to_nptype", "to create its outputs")
#: The context of a running mindspore.jit, else None.
jit_context = _private("mindspore.graph.jit_context", "jit_context", "to refuse mindspore.jit")
#: The state of MindSpore's communication: INITED and WORLD_COMM_GROUP.
GlobalComm = _private("mindspore.communication", "GlobalComm", "to find the world")

_MixedPrecisionType = _private("mindspore._c_expression", "MixedPrecisionType", "to obey to_float()")
#: The dtype to which to_float() lets a Cell cast its inputs, by the Cell's mixed_precision_type.
CAST_BY_TO_FLOAT = {
    _MixedPrecisionType.FP16: mindspore.float16,
    _MixedPrecisionType.BF16: mindspore.bfloat16,
    _MixedPrecisionType.FP32: mindspore.float32,
}

_executor = _private("mindspore.graph.api", "_pynative_executor", "to notice recomputation")


#: Number of the backward pass that runs on this thread, else -1.
backward_pass_id = _executor.get_current_autodiff_engine_id
#: False in the first pass of a recomputed Cell, and in mindspore.no_grad().
gradients_are_on = _executor.enable_grad
#: True under saved_tensors_hooks, as in the first pass of recompute(use_reentrant=False).
saves_by_hooks = _executor.is_saved_tensor_hook_active
_RecomputeHandle = _private("mindspore.common.recompute", "_RecomputeHandle", "to notice recomputation")
# The variable with what recomputes, in functions whose frame tells of a first pass, and of a repetition.
_FIRST_PASS = {"construct": "self", "forward": "ctx", "recompute_without_reentrant": "handle"}
_REPETITION = {"bprop": "self", "backward": "ctx", "recompute": "self"}


def recomputer_of(frame):
    """What runs, or will run, a forward for the second time in this frame of Python, and whether it does so now.

    (None, False) for any other frame.
    """
    name = frame.f_code.co_name
    variable = _FIRST_PASS.get(name) or _REPETITION.get(name)
    found = frame.f_locals.get(variable) if variable else None
    if isinstance(found, (AutogradFunction, _RecomputeHandle)) or isinstance(found, nn.Cell) and found.has_bprop:
        return found, name in _REPETITION
    return None, False


def cells_of(cell):
    """The children of a Cell by name, to be changed in place."""
    return cell._cells


def has_hooks(cell):
    """True if a hook was registered on the Cell."""
    return any(value for name, value in vars(cell).items() if "hook" in name)


def parameters_of(cell):
    """The Parameters of a Cell by name, without the Cell's slow attribute access."""
    return cell._params
