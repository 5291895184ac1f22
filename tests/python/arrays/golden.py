# SPDX-License-Identifier: Apache-2.0

"""The golden vectors of bits_version 1, as NumPy arrays."""

import pathlib

import ml_dtypes
import numpy as np

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def _values(text, dtype):
    dtype = np.dtype(dtype)
    return np.frombuffer(bytes.fromhex("" if text == "-" else text), f">u{dtype.itemsize}").astype(
        f"u{dtype.itemsize}").view(dtype)


class Case:
    """One case: options, the layer's state before and after, and each rank's tensors as (samples, C, places)."""

    def __init__(self, fields):
        self.name = " ".join(fields["case"])
        self.input = DTYPES[fields["input"][0]]
        self.parameters = DTYPES[fields["parameters"][0]]
        momentum = fields["momentum"][0]
        self.options = {
            "num_features": int(fields["channels"][0]),
            "eps": float(_values(fields["eps"][0], np.float64)[0]),
            "momentum": None if momentum == "none" else float(_values(momentum, np.float64)[0]),
            "affine": "weight" in fields,
            "track_running_stats": "running_mean" in fields,
            "dtype": self.parameters,
            "activation": "relu" if fields["relu"][0] == "1" else None,
            "affine_gradients": "group" if fields["group_gradients"][0] == "1" else "local",
            "nonfinite": "skip_update" if fields["skip_update"][0] == "1" else "propagate",
        }
        self.training = fields["mode"][0] == "train"
        self.state = self._state(fields, "", ("weight", "bias", "running_mean", "running_var"))
        self.state_after = self._state(fields, "=", ("running_mean", "running_var"))
        numbers = [int(n) for n in fields["shares"]]
        shares = list(zip(numbers[::2], numbers[1::2]))
        self.ranks = []
        for rank, (samples, places) in enumerate(shares):
            shape = samples, self.options["num_features"], places
            values = {name: _values(fields[name][rank], self.input).reshape(shape)
                      for name in ("x", "dy", "residual", "=y", "=dx", "=d_residual") if name in fields}
            values.update({name: _values(fields[name][rank], self.parameters)
                           for name in ("=weight_grad", "=bias_grad") if name in fields})
            self.ranks.append(values)

    def _state(self, fields, prefix, names):
        state = {name: _values(fields[prefix + name][0], self.parameters) for name in names
                 if prefix + name in fields}
        if prefix + "tracked" in fields:
            state["num_batches_tracked"] = np.array(int(fields[prefix + "tracked"][0]))
        return state


class Matmul:
    """One all_reduce_matmul: each rank's matrices, and the product."""

    def __init__(self, fields):
        self.name = fields["case"][0]
        self.dtype = DTYPES[fields["type"][0]]
        columns = [int(n) for n in fields["columns"]]
        self.ranks = [[_values(fields[name][rank], self.dtype).reshape(int(rows), width)
                       for name, width in zip("ab", columns)] for rank, rows in enumerate(fields["rows"])]
        self.product = _values(fields["=c"][0], self.dtype).reshape(columns)


def cases(name="vectors.txt", parse=Case):
    fields = {}
    with open(GOLDEN / name) as file:
        for line in file:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "end":
                yield parse(fields)
                fields = {}
            else:
                fields[words[0]] = words[1:]


def bits(array):
    """An array's bits, with all NaNs made one."""
    array = np.asarray(array)
    unsigned = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").copy()
    if array.dtype.kind != "i":
        unsigned[np.isnan(array)] = 0xFFFF
    return unsigned.reshape(array.shape)
