# SPDX-License-Identifier: Apache-2.0

"""The private and undocumented names of MindSpore in use.

MindSpore may change them in any release. All of them are looked up here, when `syncbn.mindspore` is imported: a MindSpore
without one of them is an error that names it. tests/python/mindspore/test_private_names.py checks what each does.
"""

import importlib

import mindspore


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


def in_backward_pass():
    """True inside a backward pass: a forward there is recomputed, by Cell.recompute() or mindspore.recompute()."""
    return _executor.get_current_autodiff_engine_id() != -1


def cells_of(cell):
    """The children of a Cell by name, to be changed in place."""
    return cell._cells


def has_hooks(cell):
    """True if a hook was registered on the Cell."""
    return any(value for name, value in vars(cell).items() if "hook" in name)


def parameters_of(cell):
    """The Parameters of a Cell by name, without the Cell's slow attribute access."""
    return cell._params
