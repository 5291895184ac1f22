# SPDX-License-Identifier: Apache-2.0

"""Options of SyncBatchNorm beyond those of torch's batch norms."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .. import _checks
from ._process_group import name_of, next_number


def _name_tensor(name):
    """The bytes of a name as a tensor. Its length is rounded up, so that most names have the same shape.

    Compiled code takes a str for a constant, and the shape of a tensor, too. A layer whose name is another constant
    would be compiled anew.
    """
    text = name.encode()
    return torch.tensor(list(text.ljust(max(1, -(-len(text) // 64)) * 64, b"\0")), dtype=torch.uint8, device="cpu")


class ExtraOptions(NamedTuple):
    """A layer's options that torch's batch norms do not have, and its name. A copy of the layer has the same."""

    process_group_name: str  # a process group itself can be neither copied nor pickled; "" is the default group
    activation: Optional[str]
    nonfinite: str
    name: str
    name_tensor: Tensor  # the name, for operators
    converted_from: Optional[str]  # the class that convert_sync_batchnorm replaced

    @classmethod
    def create(cls, process_group=None, activation=None, nonfinite="propagate", name=None, converted_from=None):
        """The options of a new layer, checked. Without a name the layer gets the next number of its process group."""
        if activation is not None:
            _checks.choice("activation", activation, ("relu",))
        _checks.choice("nonfinite", nonfinite, ("propagate", "skip_update", "error"))
        if name is not None:
            _checks.string("name", name)
        process_group_name = name_of(process_group)
        name = name or f"#{next_number(process_group)}"
        return cls(process_group_name, activation, nonfinite, name, _name_tensor(name), converted_from)

    @property
    def given_name(self):
        """The name, unless it is a number."""
        return "" if self.name.startswith("#") else self.name

    def named(self, name):
        """The same options with another name."""
        return self._replace(name=name, name_tensor=_name_tensor(name))

    def to_dict(self):
        """The options as a dict of plain values, for pickles."""
        return {key: value for key, value in self._asdict().items() if key != "name_tensor"}

    @classmethod
    def from_dict(cls, options):
        """The options of `to_dict`."""
        return cls(**options, name_tensor=_name_tensor(options["name"]))
