"""What the layers inside PyTorch and MindSpore have in common."""

import atexit
import functools

from . import _core
from ._errors import GroupError


@functools.lru_cache(maxsize=1024)
def core_layer(group, num_features, eps, momentum, affine, bias, track, dtype, activation, nonfinite, name):
    """The core's layer with these settings. It has no values of its own, so one serves all layers that are alike, and a
    framework's layer holds nothing that could not be copied, pickled or changed. dtype: the framework's."""
    return _core.FrameworkLayer(_core.Layer(
        num_features, eps=eps, momentum=momentum, affine=affine, bias=bias, track_running_stats=track,
        process_group=group, dtype=core_dtype(dtype), activation=activation, nonfinite=nonfinite, name=name))


def tell_peers(core_group, process_group, name, error):
    """For a training call that fails before it reaches the core: the peers get an error instead of waiting. The
    settings of the layer that says so play no part, and may be what is wrong."""
    try:
        group = core_group(process_group)
    except GroupError:
        return
    core_layer(group, 1, 0.0, None, False, False, False, "float32", "none", "propagate",
               name).fail(f"{type(error).__name__}: {error}")


def core_dtype(dtype):
    """Of torch.float32, MindSpore's Float32 and the bare name alike."""
    return getattr(_core.DType, str(dtype).rpartition(".")[2].lower())


class _Alone:
    rank, size = 0, 1

    def all_reduce_sum(self, array, timeout):
        """Is never called."""


@functools.lru_cache(maxsize=None)
def alone():
    """The group of a process by itself."""
    return _core.make_group("this process", _Alone())


atexit.register(core_layer.cache_clear)
atexit.register(alone.cache_clear)
