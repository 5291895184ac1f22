# SPDX-License-Identifier: Apache-2.0

"""The settings of a layer of the core."""

from typing import NamedTuple, Optional

from . import _core
from ._dtypes import CORE_DTYPES, DTYPE_NAMES


class LayerSpec(NamedTuple):
    """All settings of a core layer but its group. The names and values are those of `_core.Layer`."""

    num_features: int
    affine: bool = True
    bias: bool = True
    track_running_stats: bool = True
    dtype: str = "float32"  # of parameters and buffers
    activation: str = "none"
    nonfinite: str = "propagate"
    affine_gradients: str = "local"
    name: str = ""
    # At the end, so that a FrameworkGroup can cut them off.
    eps: float = 1e-5
    momentum: Optional[float] = 0.1

    def core_layer(self, process_group):
        """A new layer of the core with these settings in `process_group`: None, a name or a `_core.Group`."""
        if self.dtype not in CORE_DTYPES:
            raise TypeError(f"parameters and buffers: {self.dtype}, expected {DTYPE_NAMES}")
        return _core.Layer(process_group=process_group, **self._asdict() | {"dtype": CORE_DTYPES[self.dtype]})
