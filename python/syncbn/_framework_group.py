# SPDX-License-Identifier: Apache-2.0

"""Groups of ranks for the layers inside PyTorch and MindSpore."""

import atexit
import functools
import threading

from . import _core
from ._errors import GroupError
from ._layer_spec import LayerSpec

# Limit of the core layers that a group keeps. It is more than a network has; a program that makes and drops networks
# for a long time must not collect their layers.
_MAX_LAYERS = 4096


class FrameworkGroup:
    """A group of the core and the core layers that work in it.

    The parameters of a core layer belong to the framework, which gives their addresses at each call. So one core layer
    serves all framework layers of the same settings, and a framework layer can be copied and pickled: it holds nothing
    of the core.
    """

    def __init__(self, name, engine, timeout=None, timeout_setting="", naming=""):
        """`naming`: how a program names a layer, for messages."""
        self._core_group = _core.make_group(name, engine, timeout, timeout_setting)
        self._naming = naming
        self._layers = {}  # by LayerSpec
        self._specs = {}  # the same LayerSpecs by themselves without eps and momentum
        self._lock = threading.Lock()

    def layer(self, spec):
        """The `_core.FrameworkLayer` with the settings of `spec`."""
        return self._layers.get(spec) or self._create(spec)

    def _create(self, spec):
        """A new layer takes the place of an earlier one that differs in eps or momentum only.

        A schedule may change these at each step.
        """
        layer = _core.FrameworkLayer(spec.core_layer(self._core_group), self._naming)
        with self._lock:
            self._forget(self._specs.get(spec[:-2]))
            while len(self._layers) >= _MAX_LAYERS:
                self._forget(next(iter(self._layers)))
            self._layers[spec] = layer
            self._specs[spec[:-2]] = spec
        return layer

    def _forget(self, spec):
        if spec is not None:
            del self._layers[spec], self._specs[spec[:-2]]


class _SingleRank:
    rank, size = 0, 1

    def all_reduce_sum(self, array, timeout):
        raise AssertionError("a group of one rank sends nothing")


@functools.lru_cache(maxsize=None)
def single_rank_group():
    """The group of this process alone, for evaluation and for training without other ranks."""
    return FrameworkGroup("this process", _SingleRank())


atexit.register(single_rank_group.cache_clear)


def fail_peers(find_group, process_group, layer_name, reason):
    """Give the peers an error if a training call fails on this rank before it reaches a core layer.

    Without it they would wait for this rank until the deadline. `find_group(process_group)` returns the FrameworkGroup.
    The layer that reports the failure has default settings, since the settings of the call may be what is wrong.
    """
    try:
        group = find_group(process_group)
    except GroupError:
        return
    group.layer(LayerSpec(num_features=1, name=layer_name)).fail(_core.Direction.forward, reason)


def given_name(name):
    """The name of a layer from a saved file. Earlier versions saved "#" and a number for a layer without a name."""
    return "" if name.startswith("#") and name[1:].isdecimal() else name


def name_call(error, direction, layer_name):
    """Add the call to the text of an error before a core layer's call: "... (forward of layer 'bn1')"."""
    call = _core.describe_call(direction, layer_name)
    if isinstance(error, (TypeError, ValueError, RuntimeError)) and len(error.args) == 1:
        error.args = (f"{error} ({call})",)
    elif hasattr(error, "add_note"):  # since Python 3.11; NumPy's MemoryError, for example, makes its text of its arguments
        error.add_note(f"({call})")


def fail_call(error, core_layer, direction):
    """Name the call in an error that came before the core layer's call, and give it to the peers.

    In evaluation the core layer is in a group of one, so nobody gets it.
    """
    name_call(error, direction, core_layer.name)
    core_layer.fail(direction, error_text(error))


def error_text(error):
    """Class and message of an exception, for the peers."""
    return f"{type(error).__name__}: {error}"
