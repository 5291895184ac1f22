# SPDX-License-Identifier: Apache-2.0

"""A wheel beside PyTorch: each brings an OpenMP library. Usage: wheel_torch.py <modules, in the order of their import>

Prints a digest of steps on several threads, and fails unless threads of OpenMP made them.
"""

import hashlib
import importlib
import os
import sys

for module in sys.argv[1:]:
    importlib.import_module(module)

import numpy  # noqa: E402
import syncbn  # noqa: E402
import syncbn.torch  # noqa: E402
import torch  # noqa: E402

THREADS = 4


def threads():
    return len(os.listdir("/proc/self/task"))


def step(x, count):
    """The bytes of a step's results, in NumPy and in PyTorch."""
    syncbn.set_num_threads(count)
    layer = syncbn.SyncBatchNorm(x.shape[1])
    y = layer(x)
    results = [y, layer.backward(y), layer.weight_grad]

    module = syncbn.torch.SyncBatchNorm(x.shape[1])
    given = torch.from_numpy(x).requires_grad_()
    output = module(given)
    (output * output).sum().backward()
    results += [output.detach().numpy(), given.grad.numpy(), module.weight.grad.numpy()]
    return b"".join(result.tobytes() for result in results)


maps = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
assert any("/syncbn.libs/" in library for library in maps), maps
assert any("/syncbn.libs/" not in library for library in maps), maps
torch.set_num_threads(1)  # so that only syncbn's are counted
x = numpy.random.default_rng(0).normal(size=(8, 16, 64, 64)).astype(numpy.float32)
alone = step(x, 1)
before = threads()
together = step(x, THREADS)
assert threads() >= before + THREADS - 1, (before, threads())
assert alone == together
torch.set_num_threads(THREADS)
assert float((torch.ones(1 << 20) * 2).sum()) == 2 << 20
print(hashlib.sha256(together).hexdigest())
