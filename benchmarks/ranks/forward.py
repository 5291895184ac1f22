# SPDX-License-Identifier: Apache-2.0

"""A training forward of (2, C), whose time is its message, on each rank of a job: a line of JSON for each C.

usage: forward.py ENGINE. Runs under syncbn-run, or under mpirun, where it also measures Open MPI's sum of an equal message.
"""

import json
import sys
import time

import numpy as np
import syncbn

CHANNELS = (64, 256, 1024, 2048)
HEADER_WORDS, CHANNEL_WORDS = 13, 22  # of a float32 forward's message, the count included
BLOCKS, CALLS = 6, 25  # a block's time is that of the slowest rank


def measure(call, slowest):
    for _ in range(10):
        call()
    blocks = []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        blocks.append((time.perf_counter() - start) / CALLS)
    return slowest(blocks)


def by_sums(blocks):
    """Maximum over the ranks, made of the sums that syncbn has: a table with a row a rank."""
    table = np.zeros((syncbn.get_group_size(), len(blocks)))
    table[syncbn.get_rank()] = blocks
    syncbn.all_reduce_sum(table)
    return table.max(0).tolist()


def main():
    syncbn.init()
    results = []
    for channels in CHANNELS:
        x = np.random.default_rng(syncbn.get_rank()).standard_normal((2, channels)).astype(np.float32)
        layer = syncbn.SyncBatchNorm(channels)
        seconds = {sys.argv[1]: measure(lambda: layer(x), by_sums)}
        if sys.argv[1] == "Open MPI":
            from mpi4py import MPI

            words = np.zeros(HEADER_WORDS + CHANNEL_WORDS * channels, np.int64)
            seconds["Open MPI's sum alone"] = measure(lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, words), by_sums)
        results.append({"suite": "forward", "channels": channels, "ranks": syncbn.get_group_size(), "seconds": seconds})
    if syncbn.get_rank() == 0:
        print("\n".join(map(json.dumps, results)), flush=True)


if __name__ == "__main__":
    main()
