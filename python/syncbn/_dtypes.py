"""The core's dtypes."""

from . import _core

#: Each dtype of the core by its name, which NumPy, PyTorch and MindSpore have in common.
CORE_DTYPES = {name: getattr(_core.DType, name) for name in ("float16", "bfloat16", "float32", "float64")}
