# SPDX-License-Identifier: Apache-2.0

"""What the calls of a step cost by a latency-bandwidth model, for powers of two.

A message of n bytes over h links takes overhead + h * latency + n * share / bandwidth: `share` messages of the same
step go over the busiest link. Nothing here is fitted: platforms and overhead are those of the simulation, and share and
h follow from the algorithm and the network's shape.
"""

import math

# ResNet-50 (He et al. 2015, table 1, 50 layers; a batch norm follows each convolution): channels -> number of layers.
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # width of the bottleneck, blocks


def layers():
    counts = {64: 1}  # behind the first convolution
    for width, blocks in BLOCKS:
        counts[width] = counts.get(width, 0) + 2 * blocks
        counts[4 * width] = counts.get(4 * width, 0) + blocks + 1  # the shortcut of the first block
    return counts


LAYERS = layers()
assert (sum(LAYERS.values()), sum(c * n for c, n in LAYERS.items())) == (53, 26560)

BANDWIDTH = 100e9 / 8  # bytes per second, each way
OVERHEAD = 0.25e-6  # seconds of software at each end of a message; run.py gives it to the simulator


class FatTree:
    """fat_tree.xml: 32 hosts a leaf, all leaves on 32 spines; no two messages of a step share a link."""

    name = "fat tree"
    latency = 0.25e-6

    def __init__(self, ranks):
        del ranks

    def links(self, a, b):
        return 2 if a // 32 == b // 32 else 4

    def share(self, mask):
        del mask
        return 1


class Torus:
    """torus.xml: 8 x 8 x 16; beyond 1,024 ranks the model doubles the first sides."""

    name = "torus"
    latency = 0.1e-6

    def __init__(self, ranks):
        self.sides = [16 if ranks > 1024 else 8, 16 if ranks > 2048 else 8, 16]

    def links(self, a, b):
        hops = 0
        for side in self.sides:
            distance = abs(a % side - b % side)
            hops += min(distance, side - distance)
            a, b = a // side, b // side
        return hops

    def share(self, mask):
        # Ranks r and r ^ mask are `mask` apart in one direction; as many messages cross the middle.
        return self.links(0, mask)


PLATFORMS = {"fat_tree": FatTree, "torus": Torus}


class Model:
    def __init__(self, platform, ranks):
        self.net = PLATFORMS[platform](ranks)
        self.ranks = ranks
        self.masks = [1 << i for i in range(int(math.log2(ranks)))]
        neighbours = sum(self.net.links(r, (r + 1) % ranks) for r in range(ranks)) / ranks
        # A part of the vector goes round the ring, so that each link counts with its own latency.
        self.ring_alpha = self.alpha(neighbours)

    def alpha(self, links):
        return 2 * OVERHEAD + links * self.net.latency

    def exchange(self, mask, size):
        """Every rank and its partner at `mask` swap `size` bytes."""
        return self.alpha(self.net.links(0, mask)) + size * self.net.share(mask) / BANDWIDTH

    def allreduce(self, algorithm, size, width):
        if algorithm == "recursive doubling":
            return sum(self.exchange(mask, size) for mask in self.masks)
        if algorithm == "Rabenseifner":
            return 2 * sum(self.exchange(mask, size / (2 * mask)) for mask in self.masks)
        # SimGrid's ring has parts of equal size; the elements left over go up and down a tree.
        rest = size // width % self.ranks
        time = 2 * sum(self.exchange(mask, rest * width) for mask in self.masks) if rest else 0
        if rest * width < size:
            time += 2 * (self.ranks - 1) * (self.ring_alpha + size / self.ranks / BANDWIDTH)
        return time

    def allgather(self, algorithm, size):
        if algorithm == "ring":
            return (self.ranks - 1) * (self.ring_alpha + size / BANDWIDTH)
        return sum(self.exchange(mask, mask * size) for mask in self.masks)

    def call(self, form, algorithm, direction, size):
        if form == "gathered" and direction == "forward":
            return self.allgather(algorithm, size)
        return self.allreduce(algorithm, size, 8 if form == "exact" else 4)
