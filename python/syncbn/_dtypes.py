# SPDX-License-Identifier: Apache-2.0

"""The core's dtypes."""

from . import _core

#: Each dtype of the core by its name, which NumPy, PyTorch and MindSpore have in common.
CORE_DTYPES = {dtype.name: dtype for dtype in _core.DType}
*_most, _last = CORE_DTYPES
#: For messages: "float16, bfloat16, float32 or float64".
DTYPE_NAMES = f"{', '.join(_most)} or {_last}"
