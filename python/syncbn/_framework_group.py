"""What the layers inside PyTorch and MindSpore have in common."""

import atexit
import functools
import threading

from . import _core
from ._errors import GroupError

# Layers that a group keeps: more than a network has, for what made and dropped them may go on for long.
_KEPT = 4096


class Group:
    """A group of the core, with the core's layers in it: those have no values of their own, so one serves all that
    are alike, and a framework's layer holds nothing that could not be copied, pickled or changed."""

    def __init__(self, name, engine, timeout=None):
        self._core = _core.make_group(name, engine, timeout)
        self._layers = {}
        self._making = threading.Lock()

    def layer(self, eps, momentum, *kind):
        """`kind`: num_features, affine, bias, track, dtype (the framework's), activation, nonfinite and name. Where eps or
        momentum change, which a schedule may do at every step, the layer with the old ones is forgotten."""
        found = self._layers.get(kind)
        if found is None or found[0] != eps or found[1] != momentum:
            found = eps, momentum, self._made(eps, momentum, *kind)
            with self._making:
                while len(self._layers) >= _KEPT:
                    del self._layers[next(iter(self._layers))]
                self._layers[kind] = found
        return found[2]

    def _made(self, eps, momentum, num_features, affine, bias, track, dtype, activation, nonfinite, name):
        return _core.FrameworkLayer(_core.Layer(
            num_features, eps=eps, momentum=momentum, affine=affine, bias=bias, track_running_stats=track,
            process_group=self._core, dtype=core_dtype(dtype), activation=activation, nonfinite=nonfinite, name=name))


def tell_peers(core_group, process_group, name, reason):
    """For a training call that fails before it reaches a layer of the core: the peers get an error instead of waiting.
    The settings of the layer that says so play no part, and may be what is wrong."""
    try:
        group = core_group(process_group)
    except GroupError:
        return
    group.layer(0.0, None, 1, False, False, False, "float32", "none", "propagate", name).fail(reason)


def reason_of(error):
    """What the peers read of it."""
    return f"{type(error).__name__}: {error}"


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
    return Group("this process", _Alone())


atexit.register(alone.cache_clear)
