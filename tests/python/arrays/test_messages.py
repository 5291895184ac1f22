# SPDX-License-Identifier: Apache-2.0
"""The wording of the package's error messages, in the file that has the library's: tests/golden/messages.txt.

Other tests assert an error's class and facts. After a deliberate change, SYNCBN_MESSAGES=write records the new words."""

import os
import pathlib
import re

import numpy as np
import pytest

import syncbn

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "messages.txt"
PREFIX = "python: "
X = np.arange(12, dtype=np.float32).reshape(6, 2)


def layer(**options):
    return syncbn.SyncBatchNorm(2, **options)


def assign(name, value, **options):
    setattr(layer(**options), name, value)


def strided():
    values = np.ones((2, 2), np.float32)[:, 0]
    return syncbn.all_reduce_sum(values)


RAISED = {
    "options: no int": lambda: syncbn.SyncBatchNorm("2"),
    "options: an int of more bits": lambda: syncbn.SyncBatchNorm(2**70),
    "options: no float": lambda: layer(momentum="0.1"),
    "options: eps": lambda: layer(eps=None),
    "options: no bool": lambda: layer(affine=1),
    "options: no str": lambda: layer(name=3),
    "options: text that UTF-8 has not": lambda: layer(name="\ud800"),
    "options: none of the words": lambda: layer(activation="nope"),
    "options: dtype": lambda: layer(dtype="float8"),
    "process_group: another type": lambda: layer(process_group=1.5),
    "process_group: a rank outside the world": lambda: layer(process_group=[0, 1]),
    "layer: a fixed attribute": lambda: assign("eps", 1),
    "layer: a value that it has not": lambda: assign("weight", [1, 1], affine=False),
    "layer: a value of another shape": lambda: assign("weight", np.ones(3)),
    "layer: a value of no real numbers": lambda: assign("weight", np.ones(2, complex)),
    "layer: a count": lambda: assign("num_batches_tracked", -1),
    "state: no dict": lambda: layer().load_state_dict([]),
    "state: other names": lambda: layer().load_state_dict({"weight": X[0]}),
    "input: no array": lambda: layer()([[1, 2], [3, 4]]),
    "input: a masked array": lambda: layer()(np.ma.masked_array(X)),
    "input: one axis": lambda: layer()(X[0]),
    "input: other channels": lambda: layer()(X.T.copy()),
    "input: another dtype": lambda: layer()(X.astype(np.int64)),
    "residual: another shape": lambda: layer()(X, X[:3].copy()),
    "backward: no forward": lambda: layer().backward(X),
    "init: half a world": lambda: syncbn.init(host="elsewhere"),
    "init: a rank alone": lambda: syncbn.init(rank=0),
    "init: timeout": lambda: syncbn.init(rank=0, size=1, timeout=0),
    "create_group: no list": lambda: syncbn.create_group("g", "01"),
    "all_reduce_sum: another dtype": lambda: syncbn.all_reduce_sum(np.ones(2, np.int32)),
    "all_reduce_sum: another layout": strided,
    "all_reduce_matmul: another dtype": lambda: syncbn.all_reduce_matmul(X, X.astype(int)),
    "all_reduce_matmul: no matrix": lambda: syncbn.all_reduce_matmul(X[0], X),
    "all_reduce_matmul: two dtypes": lambda: syncbn.all_reduce_matmul(X, X.astype(np.float64)),
    "all_reduce_matmul: other rows": lambda: syncbn.all_reduce_matmul(X, X[1:]),
    "run_ranks: size": lambda: syncbn.run_ranks(0, lambda rank: None),
    "run_ranks: body": lambda: syncbn.run_ranks(2, None),
}


def message_of(call):
    with pytest.raises(Exception) as caught:
        call()
    text = re.sub(r"0x[0-9a-f]+", "0x*", str(caught.value))
    return f"{type(caught.value).__name__}: {text}".replace("\n", "\\n")


def golden():
    head, *entries = GOLDEN.read_text().split("\n\n")
    return head, dict(entry.rstrip("\n").split("\n  ", 1) for entry in entries)


def test_are_worded_as_the_golden_file_says():
    raised = {PREFIX + name: message_of(call) for name, call in RAISED.items()}
    head, messages = golden()
    if os.environ.get("SYNCBN_MESSAGES") == "write":
        messages = {name: text for name, text in messages.items() if not name.startswith(PREFIX)} | raised
        GOLDEN.write_text("\n\n".join([head, *(f"{n}\n  {messages[n]}" for n in sorted(messages))]) + "\n")
        return
    assert raised == {name: text for name, text in messages.items() if name.startswith(PREFIX)}
