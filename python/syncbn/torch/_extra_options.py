# SPDX-License-Identifier: Apache-2.0

"""Options of SyncBatchNorm beyond those of torch's batch norms."""

import time
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .. import _checks, _core
from .._framework_group import given_name
from ._process_group import name_of


# Programs of torch.export and torch.jit.trace carry numbers to other processes. Numbers begin at the time of the import, so
# that no layer there has the same number.
_FIRST_NUMBER = time.time_ns()
# A program is another layer than the one that it was traced from.
_TRACED = 2**62

_NAME_UNIT, _NUMBER_BYTES = 64, 8


def identity_tensor(name, number):
    """The bytes of a layer's name and of its number as a tensor, for operators.

    The length of the name is rounded up, so that most layers have tensors of the same shape. Compiled code takes a str for
    a constant, and the shape of a tensor, too. A layer whose name is another constant would be compiled anew.
    """
    text = name.encode()
    text = text.ljust(max(1, -(-len(text) // _NAME_UNIT)) * _NAME_UNIT, b"\0")
    return torch.tensor(list(text + number.to_bytes(_NUMBER_BYTES, "little")), dtype=torch.uint8, device="cpu")


def identity_of(tensor):
    """The name and the number of an `identity_tensor`. In programs that earlier versions saved, the number is missing."""
    data = tensor.numpy().tobytes()
    end = len(data) - len(data) % _NAME_UNIT
    return given_name(data[:end].rstrip(b"\0").decode()), int.from_bytes(data[end:], "little")


class ExtraOptions(NamedTuple):
    """A layer's options that torch's batch norms do not have, and its identity."""

    process_group_name: str  # a process group itself can be neither copied nor pickled; "" is the default group
    activation: Optional[str]
    nonfinite: str
    name: str  # "" if the program gave none
    name_tensor: Optional[Tensor]  # the identity, for operators
    converted_from: Optional[str]  # the class that convert_sync_batchnorm replaced
    number: int = 0  # orders layers by their construction; a copy of the layer has another
    traced_name_tensor: Optional[Tensor] = None  # the identity of programs that are traced from the layer

    @classmethod
    def create(cls, process_group=None, activation=None, nonfinite="propagate", name=None, converted_from=None):
        """The options of a new layer, checked."""
        if activation is not None:
            _checks.choice("activation", activation, ("relu",))
        _checks.choice("nonfinite", nonfinite, ("propagate", "skip_update", "error"))
        if name is not None:
            _checks.string("name", name)
        return cls.from_dict({"process_group_name": name_of(process_group), "activation": activation,
                              "nonfinite": nonfinite, "name": name or "", "converted_from": converted_from})

    def named(self, name):
        """The options of the same layer with another name."""
        return self._replace(name=name, name_tensor=identity_tensor(name, self.number),
                             traced_name_tensor=identity_tensor(name, self.number | _TRACED))

    def to_dict(self):
        """The options as a dict of plain values, for pickles."""
        return {key: value for key, value in self._asdict().items() if key not in ("name_tensor", *self._field_defaults)}

    @classmethod
    def from_dict(cls, options):
        """The options of `to_dict`, for a new layer."""
        unnamed = cls(**options, name_tensor=None, number=_FIRST_NUMBER + _core.next_layer_number())
        return unnamed.named(given_name(options["name"]))
