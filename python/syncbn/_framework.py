"""What the layers inside PyTorch and MindSpore have in common."""

import atexit
import functools

from . import _core


@functools.lru_cache(maxsize=1024)
def core_layer(group, num_features, eps, momentum, affine, bias, track, dtype, activation="none", nonfinite="propagate",
               name=""):
    """The core's layer with these settings. It has no values of its own, so one serves all layers that are alike, and
    a framework's layer holds nothing that could not be copied, pickled or changed."""
    return _core.FrameworkLayer(_core.Layer(
        num_features, eps=eps, momentum=momentum, affine=affine, bias=bias, track_running_stats=track,
        process_group=group, dtype=dtype, activation=activation, nonfinite=nonfinite, name=name))


atexit.register(core_layer.cache_clear)
