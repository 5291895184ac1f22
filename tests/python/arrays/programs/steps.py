# SPDX-License-Identifier: Apache-2.0

"""Three steps on uneven shares; prints rank, size and a digest of all bits that every rank must have."""

import hashlib
import pathlib
import sys

import numpy as np
import syncbn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import data


def digest(rank, size, **options):
    shares = [(3 * r + 1) % 5 for r in range(size)]  # one is empty where there are four ranks and more
    start = sum(shares[:rank])
    bn = syncbn.SyncBatchNorm(3, affine_gradients="group", momentum=None, **options)
    found = hashlib.sha256()
    for step in range(3):
        whole, upstream = (data.heavy_tailed(10 * step + i, (sum(shares), 3, 4, 2), np.float32) for i in (0, 1))
        mine = slice(start, start + shares[rank])
        bn(whole[mine])
        bn.backward(upstream[mine])
        for values in (bn.weight_grad, bn.bias_grad, bn.running_mean, bn.running_var):
            found.update(values.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    if sys.argv[1:] == ["mpi4py"]:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        print(f"rank {world.rank} of {world.size}: {digest(world.rank, world.size, process_group=world)}")
    else:
        syncbn.init()
        rank, size = syncbn.get_rank(), syncbn.get_group_size()
        print(f"rank {rank} of {size}: {digest(rank, size)}")
