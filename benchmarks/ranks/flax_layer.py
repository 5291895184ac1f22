# SPDX-License-Identifier: Apache-2.0

"""A step (forward and backward) of Flax's BatchNorm over CPU devices of one process: a line of JSON a shape.

usage: flax_layer.py RANKS SHAPE..., such as 2,512,7,7. Each device has such a batch.
"""

import json
import os
import sys
import time

RANKS = int(sys.argv[1])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={RANKS}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import linen  # noqa: E402

ROUNDS, SAMPLE = 9, 30e-3  # seconds a round


def step_of(shape):
    n, channels, height, width = shape
    layer = linen.BatchNorm(use_running_average=False, axis_name="ranks")
    data = (RANKS, n, height, width, channels)  # Flax's order
    x, dy = (jax.random.normal(jax.random.key(seed), data) for seed in (0, 1))
    variables = jax.pmap(lambda x: layer.init(jax.random.key(0), x), axis_name="ranks")(x)

    def loss(parameters, statistics, x, dy):
        y, changed = layer.apply({"params": parameters, "batch_stats": statistics}, x, mutable="batch_stats")
        return jnp.vdot(y, dy), changed["batch_stats"]

    step = jax.pmap(jax.grad(loss, argnums=(0, 2), has_aux=True), axis_name="ranks")
    return lambda: jax.block_until_ready(step(variables["params"], variables["batch_stats"], x, dy))


def seconds(step, calls):
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def main():
    for text in sys.argv[2:]:
        shape = tuple(map(int, text.split(",")))
        step = step_of(shape)
        calls = max(1, int(SAMPLE / min(seconds(step, 3) for _ in range(3))))
        samples = [seconds(step, calls) for _ in range(ROUNDS)]
        print(json.dumps({"suite": "layer", "shape": shape, "ranks": RANKS, "seconds": {"Flax": samples}}), flush=True)


if __name__ == "__main__":
    main()
